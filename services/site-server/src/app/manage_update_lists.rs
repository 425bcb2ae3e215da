//! Updates as administrators see them, and the lists they put together.

use deadpool_postgres::GenericClient;
use muster_proto::catalog as pb;
use muster_proto::link::ObjectKind;
use uuid::Uuid;

use super::links::{self, objects};
use super::{Error, Site, directory, manage_clients, sum_up_counters};
use crate::domain::names;
use crate::domain::page::Page;
use crate::domain::update_page::UpdatePage;
use crate::store::named::Named;
use crate::store::{update_lists, updates};

/// Most updates in a list, a package or a deployment (semantics.md 2.11).
pub(crate) const MAX_UPDATES: usize = 1_000;
/// More updates than this in a package make a warning (semantics.md 1).
pub(crate) const RECOMMENDED: usize = 500;

async fn filter(
    db: &impl GenericClient,
    wire: Option<&pb::UpdateFilter>,
) -> Result<updates::Filter, Error> {
    let wire = wire.cloned().unwrap_or_default();
    let required_in = match wire.required_in_collection_id.as_ref() {
        [] => None,
        bytes => Some(manage_clients::by_id(db, bytes).await?),
    };
    Ok(updates::Filter {
        wire,
        required_in,
        numbers: None,
    })
}

/// Shows these updates, whatever their state, in the order of their numbers.
async fn summaries(
    db: &impl GenericClient,
    numbers: Vec<i32>,
) -> Result<Vec<pb::UpdateSummary>, Error> {
    let wire = pb::UpdateFilter {
        include_superseded: true,
        include_expired: true,
        ..Default::default()
    };
    let filter = updates::Filter {
        wire,
        required_in: None,
        numbers: Some(numbers),
    };
    updates::list(db, &filter, &UpdatePage::first(MAX_UPDATES as i64)).await
}

/// One page of updates.
pub(crate) async fn list_updates(
    site: &Site,
    request: &pb::ListUpdatesRequest,
) -> Result<pb::ListUpdatesResponse, Error> {
    let page = UpdatePage::read(request.page_size, request.sort(), &request.page_token)?;
    sum_up_counters::sum_up_counters(site).await?;
    let db = site.db().await?;
    let filter = filter(&db, request.filter.as_ref()).await?;
    let mut found = updates::list(&db, &filter, &page).await?;
    let total = match page.total {
        Some(total) => total,
        None => updates::count(&db, &filter).await?,
    };
    let next_page_token = page.fit(&mut found, total);
    Ok(pb::ListUpdatesResponse {
        updates: found,
        next_page_token,
        total,
    })
}

/// One update with its leaves.
pub(crate) async fn get_update(
    site: &Site,
    request: &pb::GetUpdateRequest,
) -> Result<pb::UpdateSummary, Error> {
    use pb::get_update_request::Key;
    let unknown = || Error::not_found("UNKNOWN_UPDATE", "there is no such update");
    sum_up_counters::sum_up_counters(site).await?;
    let db = site.db().await?;
    let number = match &request.key {
        Some(Key::UpdateNo(number)) => i32::try_from(*number).map_err(|_| unknown())?,
        Some(Key::UpdateId(id)) => updates::number_of(&db, id).await?.ok_or_else(unknown)?,
        None => return Err(Error::invalid("KEY", "name an update by number or id")),
    };
    let mut found = summaries(&db, vec![number])
        .await?
        .pop()
        .ok_or_else(unknown)?;
    if let Some(update) = &mut found.update {
        update.description = updates::description(&db, number).await?;
        update.leaves = updates::leaves(&db, number).await?;
    }
    Ok(found)
}

/// Checks that these updates exist and are not too many.
pub(crate) async fn checked(db: &impl GenericClient, wanted: &[u32]) -> Result<Vec<i32>, Error> {
    let mut numbers = crate::store::numbers(wanted)?;
    numbers.sort_unstable();
    numbers.dedup();
    if numbers.len() > MAX_UPDATES {
        let message = format!(
            "{} updates, at most {MAX_UPDATES} are allowed",
            numbers.len()
        );
        return Err(Error::invalid("TOO_MANY_UPDATES", message));
    }
    let unknown = updates::unknown(db, &numbers).await?;
    if let Some(number) = unknown.first() {
        return Err(Error::not_found(
            "UNKNOWN_UPDATE",
            format!("there is no update {number}"),
        ));
    }
    Ok(numbers)
}

/// The updates of a list by name, or these numbers; and the list's number and name.
pub(crate) async fn chosen(
    site: &Site,
    db: &impl GenericClient,
    list: &str,
    numbers: &[u32],
) -> Result<(Option<i32>, Vec<i32>), Error> {
    match (list.trim().is_empty(), numbers.is_empty()) {
        (false, true) => {
            let list_no = find(site, db, list).await?.number;
            Ok((Some(list_no), update_lists::members(db, list_no).await?))
        }
        (true, false) => Ok((None, checked(db, numbers).await?)),
        (true, true) | (false, false) => {
            let message = "name either an update list or numbers of updates";
            Err(Error::invalid("UPDATES", message))
        }
    }
}

/// The list of this name.
pub(crate) async fn find(site: &Site, db: &impl GenericClient, name: &str) -> Result<Named, Error> {
    let name = name.trim();
    let unknown = || {
        Error::not_found(
            "UNKNOWN_UPDATE_LIST",
            format!("there is no update list {name:?}"),
        )
    };
    let found = update_lists::find(db, site.config.site_code, name).await?;
    found.ok_or_else(unknown)
}

/// Makes a list from numbers, or from all that a filter finds now.
pub(crate) async fn create_update_list(
    site: &Site,
    administrator: &str,
    request: &pb::CreateUpdateListRequest,
) -> Result<pb::CreateUpdateListResponse, Error> {
    let name = names::name(&request.name)?;
    let description = names::description(&request.description)?;
    sum_up_counters::sum_up_counters(site).await?;
    let mut turn = directory::turn(site).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let numbers = match (&request.filter, request.update_numbers.is_empty()) {
        (None, false) => checked(&tx, &request.update_numbers).await?,
        (Some(_), true) => {
            let filter = filter(&tx, request.filter.as_ref()).await?;
            let page = UpdatePage::first(MAX_UPDATES as i64);
            let found = updates::list(&tx, &filter, &page).await?;
            if found.len() > MAX_UPDATES {
                let total = updates::count(&tx, &filter).await?;
                let message =
                    format!("the filter finds {total} updates, {MAX_UPDATES} are allowed");
                return Err(Error::invalid("TOO_MANY_UPDATES", message));
            }
            let number = |found: &pb::UpdateSummary| found.update.as_ref().map(|u| u.update_no);
            let numbers: Vec<u32> = found.iter().filter_map(number).collect();
            crate::store::numbers(&numbers)?
        }
        (None, true) | (Some(_), false) => {
            return Err(Error::invalid(
                "UPDATES",
                "give either numbers of updates or a filter",
            ));
        }
    };
    let (number, count) = update_lists::add(&tx, &name, &description, &numbers)
        .await
        .map_err(|error| error.taken("update list", &name))?;
    let list = update_lists::show(&tx, site.config.site_code, number).await?;
    let id = Uuid::from_slice(&list.update_list_id).unwrap_or_default();
    objects::changed(&tx, ObjectKind::UpdateList, &[id]).await?;
    turn.doubt();
    tx.commit().await?;
    turn.add_list(number, &name, &numbers);
    turn.settle();
    links::wake(site);
    tracing::info!(
        audit = true,
        administrator,
        update_list = name,
        updates = count,
        "update list created"
    );
    Ok(pb::CreateUpdateListResponse {
        update_list: Some(list),
        warnings: warnings(numbers.len()),
    })
}

fn warnings(updates: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    if updates == 0 {
        warnings.push("the list is empty".to_owned());
    }
    if updates > RECOMMENDED {
        warnings.push(format!(
            "{updates} updates: at most {RECOMMENDED} are recommended"
        ));
    }
    warnings
}

/// One page of lists.
pub(crate) async fn list_update_lists(
    site: &Site,
    request: &pb::ListUpdateListsRequest,
) -> Result<pb::ListUpdateListsResponse, Error> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let mut found = update_lists::list(&site.db().await?, site.config.site_code, page).await?;
    let next_page_token = page.cut(&mut found);
    Ok(pb::ListUpdateListsResponse {
        update_lists: found,
        next_page_token,
    })
}

/// One list with its updates.
pub(crate) async fn get_update_list(
    site: &Site,
    request: &pb::GetUpdateListRequest,
) -> Result<pb::GetUpdateListResponse, Error> {
    sum_up_counters::sum_up_counters(site).await?;
    let db = site.db().await?;
    let number = find(site, &db, &request.name).await?.number;
    let members = update_lists::members(&db, number).await?;
    Ok(pb::GetUpdateListResponse {
        update_list: Some(update_lists::show(&db, site.config.site_code, number).await?),
        updates: summaries(&db, members).await?,
    })
}

/// Deletes a list that no deployment or package was made from.
pub(crate) async fn delete_update_list(
    site: &Site,
    administrator: &str,
    request: &pb::DeleteUpdateListRequest,
) -> Result<(), Error> {
    sum_up_counters::sum_up_counters(site).await?;
    let mut turn = directory::turn(site).await;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let found = find(site, &tx, &request.name).await?;
    let Named {
        number, id, name, ..
    } = found.ours("update list")?;
    if update_lists::is_used(&tx, number).await? {
        let message = format!("a deployment or a package was made from {name:?}");
        return Err(Error::conflict("IN_USE", message));
    }
    update_lists::delete(&tx, number).await?;
    objects::deleted(&tx, ObjectKind::UpdateList, id).await?;
    turn.doubt();
    tx.commit().await?;
    turn.remove_list(number);
    turn.settle();
    links::wake(site);
    tracing::info!(
        audit = true,
        administrator,
        update_list = name,
        "update list deleted"
    );
    Ok(())
}
