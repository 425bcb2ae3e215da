//! Deployments: updates + collection + times.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_proto::{convert, deployment as pb};

use super::{Error, Site, manage_collections, manage_update_lists};
use crate::domain::names;
use crate::domain::page::Page;
use crate::store::packages::{self, Missing};
use crate::store::{deployments, sites};

/// More updates in a deployment, or deployments on a machine, make a warning (semantics.md 1).
const RECOMMENDED_UPDATES: usize = 100;
const RECOMMENDED_DEPLOYMENTS: i64 = 50;

/// The number of a deployment by name or id.
pub(crate) async fn find(db: &impl GenericClient, name: &str) -> Result<i32, Error> {
    let name = name.trim();
    let unknown = || {
        Error::not_found(
            "UNKNOWN_DEPLOYMENT",
            format!("there is no deployment {name:?}"),
        )
    };
    deployments::find(db, name).await?.ok_or_else(unknown)
}

/// Makes a deployment. Policy changes with it, in the same transaction.
pub(crate) async fn create_deployment(
    site: &Site,
    administrator: &str,
    request: &pb::CreateDeploymentRequest,
) -> Result<pb::CreateDeploymentResponse, Error> {
    let name = names::name(&request.name)?;
    let time = |field, time: &Option<prost_types::Timestamp>| {
        time.as_ref()
            .map(|time| convert::from_timestamp(field, time))
            .transpose()
    };
    let available_at = time("available_at", &request.available_at)?.unwrap_or_else(Timestamp::now);
    let deadline_at = time("deadline_at", &request.deadline_at)?;
    if deadline_at.is_some_and(|deadline| deadline < available_at) && request.available_at.is_some()
    {
        let message = "the deadline is before the time from which the updates are available";
        return Err(Error::invalid("DEADLINE", message));
    }
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let collection = manage_collections::find(&tx, &request.collection).await?;
    let (update_list_no, updates) =
        manage_update_lists::chosen(&tx, &request.update_list, &request.update_numbers).await?;
    if updates.is_empty() {
        return Err(Error::invalid(
            "UPDATES",
            "a deployment needs at least one update",
        ));
    }
    if let Some(missing) = packages::first_missing(&tx, &updates).await? {
        let message = match missing {
            Missing::Package { update_no } => {
                format!("update {update_no} has no content: create a package for it first")
            }
            Missing::File {
                package,
                version,
                why,
            } => format!("{package} {version} is on no distribution point: {why}"),
        };
        return Err(Error::conflict("NO_CONTENT", message));
    }
    let new = deployments::New {
        name: name.clone(),
        collection_no: collection.collection_no,
        update_list_no,
        updates,
        available_at,
        deadline_at,
        suppress_restart: request.suppress_restart,
    };
    let number = deployments::add(&tx, &new)
        .await
        .map_err(|error| error.taken("deployment", &name))?;
    let revision = sites::raise_policy_revision(&tx).await?;
    let deployment = deployments::show(&tx, number).await?;
    let on_machine = deployments::count_for(&tx, collection.collection_no).await?;
    tx.commit().await?;
    tracing::info!(
        audit = true,
        administrator,
        deployment = name,
        updates = new.updates.len(),
        collection = collection.name,
        revision,
        "deployment created"
    );
    let mut warnings = Vec::new();
    if new.updates.len() > RECOMMENDED_UPDATES {
        let count = new.updates.len();
        warnings.push(format!(
            "{count} updates: at most {RECOMMENDED_UPDATES} are recommended"
        ));
    }
    if on_machine > RECOMMENDED_DEPLOYMENTS {
        warnings.push(format!(
            "{on_machine} deployments on a machine: at most {RECOMMENDED_DEPLOYMENTS} are recommended"
        ));
    }
    Ok(pb::CreateDeploymentResponse {
        deployment: Some(deployment),
        warnings,
    })
}

/// One page of deployments.
pub(crate) async fn list_deployments(
    site: &Site,
    request: &pb::ListDeploymentsRequest,
) -> Result<pb::ListDeploymentsResponse, Error> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let mut found = deployments::list(&site.db().await?, page).await?;
    let next_page_token = page.cut(&mut found);
    Ok(pb::ListDeploymentsResponse {
        deployments: found,
        next_page_token,
    })
}

/// One deployment and how far it is.
pub(crate) async fn get_deployment(
    site: &Site,
    request: &pb::GetDeploymentRequest,
) -> Result<pb::GetDeploymentResponse, Error> {
    let db = site.db().await?;
    let number = find(&db, &request.name).await?;
    Ok(pb::GetDeploymentResponse {
        deployment: Some(deployments::show(&db, number).await?),
        summary: Some(deployments::summary(&db, number).await?),
    })
}

/// How far a deployment is.
pub(crate) async fn summary(
    site: &Site,
    deployment_no: i32,
) -> Result<pb::DeploymentSummary, Error> {
    deployments::summary(&site.db().await?, deployment_no).await
}

/// Removes a deployment and what clients said of it.
pub(crate) async fn delete_deployment(
    site: &Site,
    administrator: &str,
    request: &pb::DeleteDeploymentRequest,
) -> Result<(), Error> {
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let number = find(&tx, &request.name).await?;
    deployments::delete(&tx, number).await?;
    sites::raise_policy_revision(&tx).await?;
    tx.commit().await?;
    tracing::info!(
        audit = true,
        administrator,
        deployment = request.name,
        "deployment deleted"
    );
    Ok(())
}

/// The number of a deployment, for watching it.
pub(crate) async fn number_of(site: &Site, name: &str) -> Result<i32, Error> {
    find(&site.db().await?, name).await
}
