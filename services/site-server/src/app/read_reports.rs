//! What people ask of the states that clients reported.

use std::cmp::Reverse;
use std::collections::HashMap;

use muster_domain::UpdateNo;
use muster_proto::report as pb;
use prost::Message;

use super::manage_update_lists;
use super::{Error, Site, manage_clients, manage_collections, manage_deployments, matrix};
use crate::domain::page::Page;
use crate::store::{collections, reports, update_lists};

/// Most updates that one compliance report lists.
const MAX_UPDATES: usize = 5_000;

/// An update list over a collection; without a list, every update that somebody requires.
/// Answered from the matrix; the database only says what things are called.
pub(crate) async fn get_compliance(
    site: &Site,
    request: &pb::GetComplianceRequest,
) -> Result<pb::GetComplianceResponse, Error> {
    let db = site.db().await?;
    let collection = manage_collections::find(&db, &request.collection).await?;
    let members = match collection.collection_no {
        collections::ALL_SYSTEMS => None,
        number => {
            let members = collections::members(&db, number).await?;
            Some(members.iter().map(|no| no.unsigned_abs()).collect())
        }
    };
    let updates: Vec<UpdateNo> = if request.update_list.trim().is_empty() {
        let required = matrix::read(site).most_required(members.as_ref(), MAX_UPDATES);
        required
            .into_iter()
            .map(|(update_no, _)| update_no)
            .collect()
    } else {
        let (list_no, _) = manage_update_lists::find(&db, &request.update_list).await?;
        let listed = update_lists::members(&db, list_no).await?;
        listed
            .iter()
            .map(|no| UpdateNo(no.unsigned_abs()))
            .collect()
    };
    let numbers: Vec<i32> = updates
        .iter()
        .filter_map(|update_no| i32::try_from(update_no.0).ok())
        .collect();
    let mut named: HashMap<u32, reports::Named> = reports::named(&db, &numbers)
        .await?
        .into_iter()
        .map(|it| (it.update_no, it))
        .collect();
    // All counts in one look: they belong together.
    let (overall, counts) = {
        let matrix = matrix::read(site);
        let overall = matrix.list_compliance(&updates, members.as_ref());
        (overall, matrix.list_counts(&updates, members.as_ref()))
    };
    let mut rows: Vec<pb::UpdateCompliance> = updates
        .iter()
        .zip(counts)
        .filter_map(|(update_no, counts)| {
            // An update that the site does not know yet has no name to show.
            let named = named.remove(&update_no.0)?;
            Some(pb::UpdateCompliance {
                update_no: update_no.0,
                update_id: named.update_id,
                title: named.title,
                classification: named.classification,
                installed: counts.installed,
                required: counts.required,
                not_required: counts.not_required,
                unknown: counts.unknown + counts.no_data,
            })
        })
        .collect();
    rows.sort_by_key(|row| (Reverse(row.required), row.update_no));
    rows.truncate(MAX_UPDATES);
    Ok(pb::GetComplianceResponse {
        clients: overall.clients,
        compliant: overall.compliant,
        non_compliant: overall.non_compliant,
        unknown: overall.unknown + overall.no_data,
        updates: rows,
    })
}

/// Enforcement states of a deployment, with the clients behind each.
pub(crate) async fn get_enforcement(
    site: &Site,
    request: &pb::GetEnforcementRequest,
) -> Result<pb::GetEnforcementResponse, Error> {
    // Each client comes with its updates: a page of them must fit into one message.
    let size = if request.page_size == 0 {
        50
    } else {
        request.page_size.min(200)
    };
    let page = Page::read(size, &request.page_token)?;
    let db = site.db().await?;
    let number = manage_deployments::find(&db, &request.deployment).await?;
    let state = match request.state {
        0 => None,
        state => Some(i16::try_from(state).unwrap_or(-1)),
    };
    let mut rows = reports::enforcement_clients(&db, number, state, page).await?;
    let numbers: Vec<i32> = rows.iter().map(|(client_no, _)| *client_no).collect();
    let mut updates: HashMap<i32, Vec<pb::UpdateState>> = HashMap::new();
    for (client_no, state) in reports::enforcement_updates(&db, number, &numbers).await? {
        updates.entry(client_no).or_default().push(state);
    }
    for (client_no, client) in &mut rows {
        client.updates = updates.remove(client_no).unwrap_or_default();
    }
    let next_page_token = page.fit(&mut rows, |(_, client)| client.encoded_len());
    let clients = rows.into_iter().map(|(_, client)| client).collect();
    let states = reports::enforcement_counts(&db, number).await?;
    Ok(pb::GetEnforcementResponse {
        states,
        clients,
        next_page_token,
    })
}

/// Errors, most clients first.
pub(crate) async fn list_errors(
    site: &Site,
    request: &pb::ListErrorsRequest,
) -> Result<pb::ListErrorsResponse, Error> {
    let db = site.db().await?;
    let deployment = match request.deployment.trim() {
        "" => None,
        name => Some(manage_deployments::find(&db, name).await?),
    };
    Ok(pb::ListErrorsResponse {
        errors: reports::errors(&db, deployment).await?,
    })
}

/// All that is known of one client.
pub(crate) async fn get_client_report(
    site: &Site,
    request: &pb::GetClientReportRequest,
) -> Result<pb::GetClientReportResponse, Error> {
    let db = site.db().await?;
    let client = manage_clients::find(&db, &request.client).await?;
    let gone = || Error::not_found("UNKNOWN_CLIENT", "the client was deleted");
    reports::client(&db, client.client_no)
        .await?
        .ok_or_else(gone)
}
