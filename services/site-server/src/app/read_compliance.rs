//! Who complies: of an update list, of one update, and of how many clients there is data at all.
//! Counts and the clients behind them come from the matrix, names from the directory; only a page
//! of clients asks the database what they are called.

use std::cmp::Reverse;

use muster_compliance::{Answer, ListAnswer, RoaringBitmap, UpdateCounts, page};
use muster_domain::UpdateNo;
use muster_proto::report as pb;

use super::{Error, Site, choose_clients, directory, matrix};
use crate::domain::client_page::ClientPage;
use crate::store::reports::{self, Named};
use crate::store::sites;

/// Most updates that one compliance report lists.
const MAX_UPDATES: usize = 5_000;
/// Most catalog generations that are told apart.
const MAX_GENERATIONS: usize = 1_000;

/// An update list over a collection; without a list, every update that somebody requires.
pub(crate) async fn get_compliance(
    site: &Site,
    request: &pb::GetComplianceRequest,
) -> Result<pb::GetComplianceResponse, Error> {
    let members = choose_clients::members(site, &request.collection, &request.site_code).await?;
    let members = members.as_deref();
    let list = match request.update_list.trim() {
        "" => None,
        name => Some(directory::update_list(site, name).await?),
    };
    // All counts in one look: they belong together.
    let (updates, overall, counts) = {
        let matrix = matrix::read(site);
        let updates = list.map_or_else(
            || {
                let required = matrix.most_required(members, MAX_UPDATES);
                required
                    .into_iter()
                    .map(|(update_no, _)| update_no)
                    .collect()
            },
            |list| list.to_vec(),
        );
        let overall = matrix.list_compliance(&updates, members);
        let counts = matrix.list_counts(&updates, members);
        (updates, overall, counts)
    };
    let named = directory::named(site, &updates);
    let rows = updates.iter().zip(counts).zip(&named);
    let mut rows: Vec<pb::UpdateCompliance> = rows
        // An update that the site does not know yet has no name to show.
        .filter_map(|((_, counts), named)| Some(update(named.as_deref()?, &counts)))
        .collect();
    match request.sort() {
        pb::ComplianceSort::Unspecified => {
            rows.sort_by_key(|row| (Reverse(row.required), row.update_no));
        }
        pb::ComplianceSort::UpdateNo => rows.sort_by_key(|row| row.update_no),
        pb::ComplianceSort::Title => {
            rows.sort_by(|a, b| (&a.title, a.update_no).cmp(&(&b.title, b.update_no)));
        }
        pb::ComplianceSort::NoData => {
            rows.sort_by_key(|row| (Reverse(row.no_data), row.update_no));
        }
    }
    Ok(pb::GetComplianceResponse {
        clients: overall.clients,
        compliant: overall.compliant,
        non_compliant: overall.non_compliant,
        unknown: overall.unknown,
        no_data: overall.no_data,
        updates: rows,
    })
}

fn update(named: &Named, counts: &UpdateCounts) -> pb::UpdateCompliance {
    pb::UpdateCompliance {
        update_no: named.update_no,
        update_id: named.update_id.clone(),
        title: named.title.clone(),
        classification: named.classification,
        installed: counts.installed,
        required: counts.required,
        not_required: counts.not_required,
        unknown: counts.unknown,
        no_data: counts.no_data,
    }
}

/// The clients behind the overall counts of a list.
pub(crate) async fn list_compliance_clients(
    site: &Site,
    request: &pb::ListComplianceClientsRequest,
) -> Result<pb::ListComplianceClientsResponse, Error> {
    let answer = match request.answer() {
        pb::ListAnswer::Unspecified => return Err(no_answer()),
        pb::ListAnswer::Compliant => ListAnswer::Compliant,
        pb::ListAnswer::NonCompliant => ListAnswer::NonCompliant,
        pb::ListAnswer::Unknown => ListAnswer::Unknown,
        pb::ListAnswer::NoData => ListAnswer::NoData,
    };
    let page = ClientPage::read(request.page_size, &request.page_token)?;
    let updates = directory::update_list(site, &request.update_list).await?;
    let members = choose_clients::members(site, &request.collection, &request.site_code).await?;
    let found = matrix::read(site).with_list_answer(&updates, answer, members.as_deref());
    let (clients, next_page_token) = show(site, page, &found).await?;
    Ok(pb::ListComplianceClientsResponse {
        clients,
        next_page_token,
        total: total(&found),
    })
}

fn no_answer() -> Error {
    Error::invalid("ANSWER", "say which clients: the answer is not set")
}

/// One update over a collection.
pub(crate) async fn get_update_compliance(
    site: &Site,
    request: &pb::GetUpdateComplianceRequest,
) -> Result<pb::GetUpdateComplianceResponse, Error> {
    use pb::get_update_compliance_request::Key;
    let named = match &request.key {
        Some(Key::UpdateNo(number)) => directory::update(site, *number)?,
        Some(Key::UpdateId(id)) => directory::update_by_id(site, id)?,
        None => return Err(no_key()),
    };
    let members = choose_clients::members(site, &request.collection, &request.site_code).await?;
    let counts = matrix::read(site).counts(UpdateNo(named.update_no), members.as_deref());
    let applicable = counts.installed + counts.required;
    let clients = applicable + counts.not_required + counts.unknown + counts.no_data;
    Ok(pb::GetUpdateComplianceResponse {
        update: Some(update(&named, &counts)),
        clients,
        required_percent: percent(counts.required, clients),
        installed_percent_of_applicable: percent(counts.installed, applicable),
    })
}

fn no_key() -> Error {
    Error::invalid("KEY", "name an update by number or id")
}

fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    100.0 * f64::from(part) / f64::from(whole)
}

/// The clients in a state of one update.
pub(crate) async fn list_update_clients(
    site: &Site,
    request: &pb::ListUpdateClientsRequest,
) -> Result<pb::ListUpdateClientsResponse, Error> {
    use pb::list_update_clients_request::Key;
    let answer = match request.answer() {
        pb::UpdateAnswer::Unspecified => return Err(no_answer()),
        pb::UpdateAnswer::Installed => Answer::Installed,
        pb::UpdateAnswer::Required => Answer::Required,
        pb::UpdateAnswer::NotRequired => Answer::NotRequired,
        pb::UpdateAnswer::Unknown => Answer::Unknown,
        pb::UpdateAnswer::NoData => Answer::NoData,
    };
    let page = ClientPage::read(request.page_size, &request.page_token)?;
    let named = match &request.key {
        Some(Key::UpdateNo(number)) => directory::update(site, *number)?,
        Some(Key::UpdateId(id)) => directory::update_by_id(site, id)?,
        None => return Err(no_key()),
    };
    let members = choose_clients::members(site, &request.collection, &request.site_code).await?;
    let update_no = UpdateNo(named.update_no);
    let found = matrix::read(site)
        .with_answer(update_no, answer, members.as_deref())
        .into_owned();
    let (clients, next_page_token) = show(site, page, &found).await?;
    Ok(pb::ListUpdateClientsResponse {
        clients,
        next_page_token,
        total: total(&found),
    })
}

/// Of how many clients there is data, and how old their catalog is.
pub(crate) async fn get_coverage(
    site: &Site,
    request: &pb::GetCoverageRequest,
) -> Result<pb::GetCoverageResponse, Error> {
    let members = choose_clients::members(site, &request.collection, &request.site_code).await?;
    let members = members.as_deref();
    let generation = sites::catalog_generation(&site.db().await?).await?;
    let matrix = matrix::read(site);
    let never_reported = total(&matrix.silent(members));
    let old_catalog = total(&matrix.behind(generation, members));
    let current = total(&matrix.abreast(generation, members));
    let mut generations = matrix.generations(members);
    drop(matrix);
    generations.truncate(MAX_GENERATIONS);
    let count = |(generation, clients): (i64, u32)| pb::GenerationCount {
        catalog_generation: generation.unsigned_abs(),
        clients,
    };
    Ok(pb::GetCoverageResponse {
        clients: never_reported + old_catalog + current,
        never_reported,
        old_catalog,
        current,
        catalog_generation: generation.unsigned_abs(),
        generations: generations.into_iter().map(count).collect(),
    })
}

/// The clients that never reported, or whose catalog is old.
pub(crate) async fn list_coverage_clients(
    site: &Site,
    request: &pb::ListCoverageClientsRequest,
) -> Result<pb::ListCoverageClientsResponse, Error> {
    let page = ClientPage::read(request.page_size, &request.page_token)?;
    let members = choose_clients::members(site, &request.collection, &request.site_code).await?;
    let members = members.as_deref();
    let generation = sites::catalog_generation(&site.db().await?).await?;
    let found = match request.coverage() {
        pb::Coverage::Unspecified => return Err(no_answer()),
        pb::Coverage::NeverReported => matrix::read(site).silent(members),
        pb::Coverage::OldCatalog => matrix::read(site).behind(generation, members),
        pb::Coverage::Current => matrix::read(site).abreast(generation, members),
    };
    let (clients, next_page_token) = show(site, page, &found).await?;
    Ok(pb::ListCoverageClientsResponse {
        clients,
        next_page_token,
        total: total(&found),
    })
}

fn total(clients: &RoaringBitmap) -> u32 {
    u32::try_from(clients.len()).unwrap_or(u32::MAX)
}

/// A page of these clients, and the token of the next one.
pub(crate) async fn show(
    site: &Site,
    at: ClientPage,
    found: &RoaringBitmap,
) -> Result<(Vec<pb::ReportedClient>, String), Error> {
    let mut numbers = page(found, at.after, at.probe());
    let next_page_token = at.cut(&mut numbers, |number| *number);
    if numbers.is_empty() {
        return Ok((Vec::new(), next_page_token));
    }
    let numbers: Vec<i32> = numbers.iter().map(|number| number.cast_signed()).collect();
    let mut clients = reports::clients(&site.db().await?, site.config.site_code, &numbers).await?;
    let matrix = matrix::read(site);
    for (client_no, client) in &mut clients {
        let generation = matrix.generation(*client_no).unwrap_or(0);
        client.catalog_generation = generation.unsigned_abs();
    }
    drop(matrix);
    let clients = clients.into_iter().map(|(_, client)| client).collect();
    Ok((clients, next_page_token))
}

/// Tells no data from unknown in a client's report; with an update list, makes the list's updates
/// the report's.
pub(crate) async fn answer_for(
    site: &Site,
    client_no: i32,
    list: Option<&str>,
    report: &mut pb::GetClientReportResponse,
) -> Result<(), Error> {
    let client_no = client_no.unsigned_abs();
    let Some(list) = list else {
        let matrix = matrix::read(site);
        for update in &mut report.updates {
            let answer = matrix.answer(UpdateNo(update.update_no), client_no);
            update.no_data = answer == Some(Answer::NoData);
        }
        return Ok(());
    };
    let updates = directory::update_list(site, list).await?;
    let (answers, overall) = {
        let matrix = matrix::read(site);
        let answer = |update_no: &UpdateNo| matrix.answer(*update_no, client_no);
        let answers: Vec<Answer> = updates.iter().filter_map(answer).collect();
        let reported = matrix.generation(client_no).is_some();
        let overall = overall(&answers, reported);
        (answers, overall)
    };
    let named = directory::named(site, &updates);
    let mut enforced = std::mem::take(&mut report.updates);
    enforced.retain(|update| !update.deployment.is_empty());
    for ((update_no, answer), named) in updates.iter().zip(answers).zip(named) {
        let Some(named) = named else { continue };
        let compliance = match answer {
            Answer::Installed => 3,
            Answer::Required => 2,
            Answer::NotRequired => 1,
            Answer::Unknown | Answer::NoData => 0,
        };
        let before = report.updates.len();
        let of_update = enforced.iter().filter(|it| it.update_no == update_no.0);
        report.updates.extend(of_update.cloned());
        if report.updates.len() == before {
            report.updates.push(pb::UpdateState {
                update_no: update_no.0,
                update_id: named.update_id.clone(),
                title: named.title.clone(),
                ..pb::UpdateState::default()
            });
        }
        for update in &mut report.updates[before..] {
            update.compliance = compliance;
            update.no_data = answer == Answer::NoData;
        }
    }
    report.list_answer = overall.into();
    Ok(())
}

fn overall(answers: &[Answer], reported: bool) -> pb::ListAnswer {
    if answers.contains(&Answer::Required) {
        pb::ListAnswer::NonCompliant
    } else if answers.contains(&Answer::Unknown) {
        pb::ListAnswer::Unknown
    } else if answers.contains(&Answer::NoData) || !reported {
        pb::ListAnswer::NoData
    } else {
        pb::ListAnswer::Compliant
    }
}
