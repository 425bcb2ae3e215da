//! What the site wants of one client: computed once per set of deployments, signed per client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_domain::ClientId;
use muster_proto::{client as pb, convert, policy};
use muster_runtime::faults;
use muster_stream::Wanted;

use super::register_client::blocked;
use super::{Error, Site, move_clients};
use crate::domain::nearby::Place;
use crate::domain::policy::Content;
use crate::domain::suite;
use crate::store::{client_moves, policy as store, streams};

/// Contents kept at once; clients share them, so there are as many as different sets of
/// deployments.
const MAX_CONTENTS: usize = 1_000;

/// The contents of one revision of policy.
#[derive(Debug, Default)]
pub(crate) struct PolicyCache(Mutex<(i64, Contents)>);

/// By deployments, ascending, and by where the client is.
type Contents = HashMap<(Vec<i32>, Place), Arc<Content>>;

impl PolicyCache {
    fn get(&self, revision: i64, key: &(Vec<i32>, Place)) -> Option<Arc<Content>> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.0 == revision {
            cache.1.get(key).cloned()
        } else {
            None
        }
    }

    fn put(&self, revision: i64, key: (Vec<i32>, Place), content: Arc<Content>) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.0 < revision || cache.1.len() >= MAX_CONTENTS {
            *cache = (revision, HashMap::new());
        }
        if cache.0 == revision {
            cache.1.insert(key, content);
        }
    }
}

/// The policy of a client, or nothing when the version it has is the current one.
pub(crate) async fn get_policy(
    site: &Site,
    client_id: ClientId,
    known_version: &[u8],
    address: Option<IpAddr>,
) -> Result<pb::GetClientPolicyResponse, Error> {
    let db = site.db().await?;
    let now = Timestamp::now();
    let asking = store::asking(&db, client_id, now)
        .await?
        .ok_or_else(blocked)?;
    if asking.deleted {
        return Err(blocked());
    }
    // What is read after the revision is at least as new as the revision.
    let key = (asking.deployments, site.nearby.place(address));
    let content = match site.policies.get(asking.revision, &key) {
        Some(content) => content,
        None => {
            let content = Arc::new(compute(site, &db, &key.0, key.1).await?);
            site.policies
                .put(asking.revision, key, Arc::clone(&content));
            content
        }
    };
    // Whoever is to go has a policy of its own.
    let content = match asking.is_moved {
        true => match client_moves::ahead(&db, client_id).await? {
            Some(ahead) => Arc::new(content.moving(move_clients::order(ahead.definition))),
            None => content,
        },
        false => content,
    };
    store::seen(&db, asking.client_no).await?;
    let wish = match asking.is_asked {
        true => streams::wish(&db, asking.client_no, now).await?,
        false => None,
    };
    // Whoever is missing a report is asked for that one first, here as everywhere.
    let full = matches!(&wish, Some(wish) if wish.wanted == Wanted::Full);
    let send_full_report = asking.wants_full || full;
    if send_full_report {
        faults::point("site.resync.asked");
    }
    let signed = (content.version() != known_version).then(|| {
        let revision = asking.revision.unsigned_abs();
        content.sign(&site.policy_key, client_id, revision, now)
    });
    let outcome = if signed.is_some() {
        "sent"
    } else {
        "unchanged"
    };
    metrics::counter!("muster_policy_requests_total", "outcome" => outcome).increment(1);
    let next = site.config.client_settings.policy_poll_interval;
    Ok(pb::GetClientPolicyResponse {
        policy: signed,
        send_full_report,
        next_poll_in: Some(convert::to_duration(next)),
        wish: wish.as_ref().map(convert::to_wish),
    })
}

async fn compute(
    site: &Site,
    db: &impl GenericClient,
    numbers: &[i32],
    place: Place,
) -> Result<Content, Error> {
    let deployments = store::deployments(db, numbers).await?;
    let mut named: Vec<i32> = deployments.iter().flat_map(|d| d.updates.clone()).collect();
    named.sort_unstable();
    named.dedup();
    let updates = store::updates(db, &named).await?;
    let suites = store::suites(db).await?;
    let at: HashMap<&str, u32> = suites
        .iter()
        .map(|suite| suite.key.as_str())
        .zip(0..)
        .collect();
    // A file counts when a distribution point has it and its suite is published: a client could
    // not verify it otherwise.
    let suite_of: HashMap<i32, &str> = updates
        .iter()
        .map(|update| (update.update_no, update.suite.as_str()))
        .collect();
    let mut files: HashMap<i32, Vec<policy::PolicyFile>> = HashMap::new();
    for file in store::files(db, &named).await? {
        let Some(suite) = suite_of.get(&file.update_no) else {
            continue;
        };
        let key = suite::key(&file.archive_uri, suite);
        let Some(index) = at.get(key.as_str()) else {
            continue;
        };
        files
            .entry(file.update_no)
            .or_default()
            .push(policy::PolicyFile {
                package: file.package,
                version: file.version,
                architecture: file.architecture,
                sha256: file.sha256.into(),
                size: file.size.unsigned_abs(),
                suite: *index,
            });
    }
    let update = |update: store::Update| policy::PolicyUpdate {
        update_no: update.update_no.unsigned_abs(),
        update_id: update.update_id,
        title: update.title,
        max_run_time_minutes: update.max_run_time_minutes.unsigned_abs(),
        needs_exclusive_handling: update.needs_exclusive_handling,
        files: files.remove(&update.update_no).unwrap_or_default(),
    };
    let updates = updates.into_iter().map(update).collect();
    let near = site.nearby.locations(place);
    Ok(Content::new(policy::Policy {
        client_id: Bytes::new(),
        site_code: site.config.site_code.to_string(),
        revision: 0,
        issued_at: None,
        settings: Some(site.config.client_settings.to_wire()),
        deployments: deployments.into_iter().map(deployment).collect(),
        updates,
        suites: suites.into_iter().map(policy_suite).collect(),
        distribution_points: near.distribution_points.clone(),
        software_update_points: near.software_update_points.clone(),
        r#move: None,
    }))
}

fn deployment(deployment: store::Deployment) -> policy::Deployment {
    policy::Deployment {
        deployment_id: Bytes::copy_from_slice(deployment.id.as_bytes()),
        name: deployment.name,
        available_at: Some(convert::to_timestamp(deployment.available_at)),
        deadline_at: deployment.deadline_at.map(convert::to_timestamp),
        update_numbers: deployment
            .updates
            .iter()
            .map(|number| number.unsigned_abs())
            .collect(),
        suppress_restart: deployment.suppress_restart,
        verbosity: deployment.verbosity.into(),
    }
}

fn policy_suite(suite: store::Suite) -> policy::PolicySuite {
    policy::PolicySuite {
        key: suite.key,
        suite: suite.suite,
        components: suite.components,
        architectures: suite.architectures,
        signed_by: suite.signed_by,
        ignore_valid_until: suite.ignore_valid_until,
    }
}
