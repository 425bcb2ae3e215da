//! What people ask of the states that clients reported. Compliance is in `read_compliance.rs`.

use std::collections::HashMap;

use muster_proto::report as pb;
use prost::Message;

use super::{Error, Site, manage_clients, manage_deployments, read_compliance};
use crate::domain::page::Page;
use crate::store::reports;

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

/// All that is known of one client, or what it says of an update list.
pub(crate) async fn get_client_report(
    site: &Site,
    request: &pb::GetClientReportRequest,
) -> Result<pb::GetClientReportResponse, Error> {
    let db = site.db().await?;
    let client = manage_clients::find(&db, &request.client).await?;
    let gone = || Error::not_found("UNKNOWN_CLIENT", "the client was deleted");
    let report = reports::client(&db, client.client_no).await?;
    let mut report = report.ok_or_else(gone)?;
    drop(db);
    let list = match request.update_list.trim() {
        "" => None,
        name => Some(name),
    };
    read_compliance::answer_for(site, client.client_no, list, &mut report).await?;
    Ok(report)
}
