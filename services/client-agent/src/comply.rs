//! Whether the machine complies with what is deployed: a scan, and what it means for each
//! deployment. `enforce` begins with it.

use std::collections::BTreeSet;

use muster_domain::error_code;
use muster_domain::states::DeploymentEvaluation;
use muster_proto::policy::Policy;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::agent::Agent;
use crate::error::cut;
use crate::evaluate::Evaluation;
use crate::policy::Deployment;
use crate::scan::Trigger;
use crate::store::meta;
use crate::topics::{deployment_state, put_deployment, reconcile, set_unheard, summarise};

impl Agent {
    /// Topics 302 and 300: scans, and says for each deployment whether the machine complies.
    /// `None` when nothing is known because no scan ever worked.
    pub(crate) async fn evaluate_deployments(
        &self,
        policy: &Policy,
        active: &[Deployment],
    ) -> Result<Option<Evaluation>, Error> {
        let numbers: BTreeSet<u32> = policy.updates.iter().map(|u| u.update_no).collect();
        let digest = Sha256::digest(format!("{numbers:?}"));
        let digest = digest
            .iter()
            .take(7)
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let checked = self.store().read(|r| r.number(meta::CHECKED_UPDATES))?;
        // Updates we never heard of may be younger than our catalog: a deployment must not look
        // compliant because of that, and asking costs a few hundred bytes.
        let unheard = |checked: Option<u64>| -> Result<BTreeSet<u32>, Error> {
            if checked == Some(digest) {
                return Ok(BTreeSet::new());
            }
            let catalog = self.store().read(|r| r.catalog())?;
            let mut unheard = numbers.clone();
            for cached in &catalog.updates {
                unheard.remove(&cached.update.update_no);
            }
            Ok(unheard)
        };
        let must = !unheard(checked)?.is_empty();
        let (evaluation, why) = match self.scan_if(Trigger::BeforeDownload, must).await {
            Ok(scanned) => {
                self.store()
                    .write(|w| w.set_number(meta::CHECKED_UPDATES, digest))?;
                (scanned.evaluation, None)
            }
            Err(error) if error.is_of_the_site() => {
                tracing::warn!(%error, "evaluating with the catalog at hand");
                (self.evaluate().await?, Some(error.to_string()))
            }
            Err(error) => return Err(error),
        };
        let now = self.now();
        let known = evaluation.generation > 0;
        let unheard = match &why {
            // Without a catalog nothing can be said, whatever was found before.
            _ if !known => numbers.clone(),
            Some(_) => unheard(checked)?,
            None => BTreeSet::new(),
        };
        let why = why.unwrap_or_else(|| "no scan has succeeded yet".into());
        self.store().write(|w| {
            set_unheard(w, &unheard)?;
            for deployment in active {
                let mut state = deployment_state(w, deployment.id)?;
                if deployment.updates.iter().any(|no| unheard.contains(&no.0)) {
                    state.evaluation = DeploymentEvaluation::Failed.id().into();
                    state.error_code = error_code::SCAN_SOURCE_UNREACHABLE;
                    state.detail = cut(why.clone());
                } else {
                    state.evaluation = DeploymentEvaluation::Succeeded.id().into();
                }
                put_deployment(w, &state, now)?;
            }
            if known {
                reconcile(w, active, now)?;
            }
            summarise(w, active, now)
        })?;
        Ok(known.then_some(evaluation))
    }
}
