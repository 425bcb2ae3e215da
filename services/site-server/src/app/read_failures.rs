//! What goes wrong, where, and on which clients: scans, evaluations and errors of deployments.
//! From rows.

use muster_proto::report as pb;
use prost::Message;

use super::{Error, Site, choose_clients, directory, manage_collections, manage_deployments};
use crate::domain::client_page::ClientPage;
use crate::store::error_reports::{self, Which};
use crate::store::{evaluation_reports, scan_reports};

/// How the scans of a collection went.
pub(crate) async fn get_scans(
    site: &Site,
    request: &pb::GetScansRequest,
) -> Result<pb::GetScansResponse, Error> {
    let owners = choose_clients::owners(site, &request.site_code).await?;
    let db = site.db().await?;
    let collection = manage_collections::find(site, &db, &request.collection).await?;
    let states = scan_reports::counts(&db, collection.number, &owners).await?;
    Ok(pb::GetScansResponse {
        clients: states.iter().map(|count| count.clients).sum(),
        states,
        errors: scan_reports::errors(&db, collection.number, &owners).await?,
    })
}

/// The clients in a scan state, or with a scan error.
pub(crate) async fn list_scan_clients(
    site: &Site,
    request: &pb::ListScanClientsRequest,
) -> Result<pb::ListScanClientsResponse, Error> {
    let page = ClientPage::read(request.page_size, &request.page_token)?;
    let state = request.state.map(state_no).transpose()?;
    let owners = choose_clients::owners(site, &request.site_code).await?;
    let db = site.db().await?;
    let collection = manage_collections::find(site, &db, &request.collection).await?;
    let of = (collection.number, &owners);
    let mut found = scan_reports::clients(&db, of, state, request.error_code, page).await?;
    let next_page_token = page.fit(&mut found, |(no, _)| *no, |(_, it)| it.encoded_len());
    Ok(pb::ListScanClientsResponse {
        clients: found.into_iter().map(|(_, client)| client).collect(),
        next_page_token,
    })
}

/// The number of a state, for SQL. A state that this version does not know finds nobody.
fn state_no(state: i32) -> Result<i16, Error> {
    i16::try_from(state).map_err(|_| Error::invalid("STATE", "there is no such state"))
}

/// Evaluation states of a deployment, with the clients behind each.
pub(crate) async fn get_evaluation(
    site: &Site,
    request: &pb::GetEvaluationRequest,
) -> Result<pb::GetEvaluationResponse, Error> {
    let page = ClientPage::read(request.page_size, &request.page_token)?;
    let state = request.state.map(state_no).transpose()?;
    let owners = choose_clients::owners(site, &request.site_code).await?;
    let db = site.db().await?;
    let number = manage_deployments::find(site, &db, &request.deployment)
        .await?
        .number;
    let mut found = evaluation_reports::clients(&db, (number, &owners), state, page).await?;
    let next_page_token = page.fit(&mut found, |(no, _)| *no, |(_, it)| it.encoded_len());
    Ok(pb::GetEvaluationResponse {
        states: evaluation_reports::counts(&db, number, &owners).await?,
        clients: found.into_iter().map(|(_, client)| client).collect(),
        next_page_token,
    })
}

/// Errors of deployments, most clients first.
pub(crate) async fn list_errors(
    site: &Site,
    request: &pb::ListErrorsRequest,
) -> Result<pb::ListErrorsResponse, Error> {
    let which = which(
        site,
        &request.deployment,
        request.update_no,
        &request.site_code,
    )
    .await?;
    let apart_by = match request.grouping() {
        pb::ErrorGrouping::Unspecified => 0,
        pb::ErrorGrouping::Deployment => 1,
        pb::ErrorGrouping::Update => 2,
    };
    let errors = error_reports::ranked(&site.db().await?, &which, apart_by).await?;
    Ok(pb::ListErrorsResponse { errors })
}

/// The clients behind an error.
pub(crate) async fn list_error_clients(
    site: &Site,
    request: &pb::ListErrorClientsRequest,
) -> Result<pb::ListErrorClientsResponse, Error> {
    let page = ClientPage::read(request.page_size, &request.page_token)?;
    if request.error_code == 0 {
        return Err(Error::invalid("ERROR_CODE", "0 is no error"));
    }
    let which = which(
        site,
        &request.deployment,
        request.update_no,
        &request.site_code,
    )
    .await?;
    let db = site.db().await?;
    let mut found = error_reports::clients(&db, request.error_code, &which, page).await?;
    let next_page_token = page.fit(&mut found, |(no, _)| *no, |(_, it)| it.encoded_len());
    Ok(pb::ListErrorClientsResponse {
        clients: found.into_iter().map(|(_, client)| client).collect(),
        next_page_token,
    })
}

async fn which(
    site: &Site,
    deployment: &str,
    update_no: u32,
    site_code: &str,
) -> Result<Which, Error> {
    let deployment_no = match deployment.trim() {
        "" => None,
        name => Some(manage_deployments::number_of(site, name).await?),
    };
    let update_no = match update_no {
        0 => None,
        number => Some(directory::update(site, number)?.update_no.cast_signed()),
    };
    Ok(Which {
        deployment_no,
        update_no,
        owners: choose_clients::owners(site, site_code).await?,
    })
}
