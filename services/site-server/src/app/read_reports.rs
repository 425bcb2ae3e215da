//! What people ask of the states that clients reported. Compliance is in `read_compliance.rs`,
//! what goes wrong in `read_failures.rs`.

use std::collections::HashMap;

use muster_compliance::RoaringBitmap;
use muster_domain::states::DeploymentEnforcement;
use muster_proto::report as pb;
use prost::Message;

use super::{
    Error, Site, choose_clients, deployment_states, known_deployments, manage_clients,
    read_compliance,
};
use crate::domain::client_page::{self, ClientPage};
use crate::domain::page::fitting;
use crate::store::reports;

/// Enforcement states of a deployment, with the clients behind each in the order of enrolment. Who
/// they are is known in memory; the database says what they are called and what went wrong.
pub(crate) async fn get_enforcement(
    site: &Site,
    request: &pb::GetEnforcementRequest,
) -> Result<pb::GetEnforcementResponse, Error> {
    // Each client comes with its updates: a page of them must fit into one message.
    let size = match request.page_size {
        0 => 50,
        size => size.min(200),
    };
    let page = ClientPage::read(size, &request.page_token)?;
    let deployment = known_deployments::find(site, &request.deployment).await?;
    let number = deployment.deployment_no;
    let mut members = deployment_states::members_in(site, deployment.collection_no).await?;
    if let Some(of_site) = choose_clients::of_site(site, &request.site_code).await? {
        members &= of_site;
    }
    let wanted = match request.state {
        0 => None,
        state => Some(
            u8::try_from(state)
                .ok()
                .and_then(DeploymentEnforcement::from_id),
        ),
    };
    // Counts and clients in one look: they belong together.
    let (counts, clients) = {
        let held = deployment_states::read(site);
        let counts = held.enforcement_counts(number, &members);
        let clients = match wanted {
            None => members,
            Some(Some(state)) => held.in_enforcement(number, state, &members),
            Some(None) => RoaringBitmap::new(),
        };
        (counts, clients)
    };
    let mut found = muster_compliance::page(&clients, page.after, page.probe());
    let mut next_page_token = page.cut(&mut found, |client_no| *client_no);
    let numbers: Vec<i32> = found.iter().map(|no| no.cast_signed()).collect();
    if numbers.is_empty() {
        return Ok(pb::GetEnforcementResponse {
            states: state_counts(counts),
            ..Default::default()
        });
    }
    let db = site.db().await?;
    let (mut rows, states) = tokio::try_join!(
        reports::enforcement_clients(&db, number, &numbers),
        reports::enforcement_updates(&db, number, &numbers)
    )?;
    let mut updates: HashMap<i32, Vec<pb::UpdateState>> = HashMap::new();
    for (client_no, state) in states {
        updates.entry(client_no).or_default().push(state);
    }
    let mut clients: Vec<(i32, pb::ClientEnforcement)> = Vec::with_capacity(numbers.len());
    for client_no in &numbers {
        // One that was deleted between two looks is left out.
        if let Some(mut client) = rows.remove(client_no) {
            client.updates = updates.remove(client_no).unwrap_or_default();
            clients.push((*client_no, client));
        }
    }
    if fitting(&mut clients, i64::MAX, |(_, client)| client.encoded_len()) {
        let last = clients
            .last()
            .map(|(client_no, _)| client_no.unsigned_abs());
        next_page_token = last.map(client_page::token).unwrap_or_default();
    }
    Ok(pb::GetEnforcementResponse {
        states: state_counts(counts),
        clients: clients.into_iter().map(|(_, client)| client).collect(),
        next_page_token,
    })
}

fn state_counts(counts: Vec<(DeploymentEnforcement, u32)>) -> Vec<pb::StateCount> {
    let count = |(state, clients): (DeploymentEnforcement, u32)| pb::StateCount {
        state: state.id().into(),
        clients,
    };
    counts.into_iter().map(count).collect()
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
