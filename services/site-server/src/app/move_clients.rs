//! Clients become another site's while they report. The central site decides it; what it decided travels
//! down to both sites. The client's site tells it where to go, the other one takes it in by what the decision
//! says of it, and once the central site has heard of that, the first one lets it go.

use jiff::Timestamp;
use muster_domain::{ClientId, SiteCode};
use muster_proto::client as pb;
use muster_proto::link::{ClientMoveDefinition, Reception, SiteRecord};
use muster_proto::{convert, policy};
use prost::Message;

use super::links::{self, objects};
use super::manage_clients::{find, remove};
use super::{Error, Site, enrol_client};
use crate::domain::site_tree::SiteTree;
use crate::store::{client_moves, links as neighbours, sites};

/// Clients that are let go before it is looked for more.
const AT_ONCE: i64 = 1_000;

/// What a client must know of this site to come here.
pub(crate) fn reception(site: &Site) -> Result<Reception, Error> {
    Ok(Reception {
        management_points: site.config.roles.management_points.clone(),
        authority: enrol_client::authority(site)?,
    })
}

/// Decides that a client is to be another site's.
pub(crate) async fn move_client(
    site: &Site,
    administrator: &str,
    request: &pb::MoveClientRequest,
) -> Result<pb::MoveClientResponse, Error> {
    let to: SiteCode = request.to_site_code.parse()?;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    // Sites and clients stay where they are until this is done; two decisions come one by one.
    sites::known(&tx).await?;
    if neighbours::neighbours(&tx)
        .await?
        .iter()
        .any(|it| it.is_parent)
    {
        let text = "clients are moved at the central site, and this one has a parent";
        return Err(Error::conflict("NOT_CENTRAL", text));
    }
    let client = find(&tx, &request.name).await?;
    let (print, from) = client_moves::known_as(&tx, client.client_no).await?;
    let Some(from) = from else {
        let text = "the client reports to this site itself: enrol it at the other one";
        return Err(Error::conflict("OWN_CLIENT", text));
    };
    let before = client_moves::of(&tx, &[client.client_id.0]).await?;
    let before = before.get(&client.client_id.0);
    let pending = before.is_some_and(|it| !it.definition.arrived);
    if from == to.as_str() && !pending {
        let text = format!("client {} is of site {to} already", client.client_id);
        return Err(Error::conflict("SAME_SITE", text));
    }
    let unknown = || Error::not_found("UNKNOWN_SITE", format!("there is no site {to} below"));
    let record = sites::records(&tx, &[to.to_string()]).await?.pop();
    let record = record.filter(|it| !it.gone).ok_or_else(unknown)?;
    let tree = SiteTree::new(sites::places(&tx).await?);
    let own = site.config.site_code;
    let target = tree.at_or_below(to, own).ok_or_else(unknown)?;
    let source = from.parse().ok().and_then(|it| tree.at_or_below(it, own));
    let above = |it: &Option<crate::domain::site_tree::Owners>, code: &str| {
        let codes = it.as_ref().and_then(|it| it.codes());
        codes.is_some_and(|codes| codes.iter().any(|it| it == code))
    };
    let beside = !above(&Some(target), &from) && !above(&source, to.as_str());
    if to == own || (from != to.as_str() && !beside) {
        let text =
            format!("clients move between sites of which neither is above the other: {from}, {to}");
        return Err(Error::conflict("NOT_BESIDE", text));
    }
    let definition = ClientMoveDefinition {
        move_no: number(
            before.map_or(0, |it| it.definition.move_no),
            Timestamp::now(),
        ),
        to_site_code: to.to_string(),
        arrived: false,
        certificate_fingerprint: fingerprint(print.as_deref())?,
        reception: Some(received(&record)?),
        decided_at: Some(convert::to_timestamp(Timestamp::now())),
    };
    client_moves::keep(&tx, client.client_id.0, &definition.encode_to_vec(), None).await?;
    objects::client_moved(&tx, &[client.client_id.0]).await?;
    let decided = client_moves::of(&tx, &[client.client_id.0]).await?;
    tx.commit().await?;
    links::wake(site);
    tracing::info!(audit = true, administrator, client.id = %client.client_id, from, to = %to,
                   move_no = definition.move_no, "client is to be moved");
    Ok(pb::MoveClientResponse {
        r#move: decided
            .get(&client.client_id.0)
            .map(client_moves::Move::shown),
    })
}

/// Grows, also when the database that it is counted in comes from a backup.
fn number(before: u64, now: Timestamp) -> u64 {
    let now = u64::try_from(now.as_millisecond()).unwrap_or(0);
    now.max(before + 1)
}

fn fingerprint(print: Option<&str>) -> Result<bytes::Bytes, Error> {
    let print = print.and_then(|it| hex::decode(it).ok());
    let print = print.filter(|it| it.len() == 32);
    let none = || {
        let text = "the client's site has not said by which certificate it knows it";
        Error::conflict("NO_CERTIFICATE", text)
    };
    Ok(print.ok_or_else(none)?.into())
}

fn received(record: &SiteRecord) -> Result<Reception, Error> {
    let reception = record.reception.clone().unwrap_or_default();
    if reception.management_points.is_empty() || reception.authority.is_empty() {
        let text = format!(
            "site {} has not said where it takes clients in: are its management points configured?",
            record.site_code
        );
        return Err(Error::conflict("NO_RECEPTION", text));
    }
    Ok(reception)
}

/// What a client is told that is to go.
pub(crate) fn order(definition: ClientMoveDefinition) -> policy::MoveOrder {
    let reception = definition.reception.unwrap_or_default();
    policy::MoveOrder {
        move_no: definition.move_no,
        site_code: definition.to_site_code,
        management_points: reception.management_points,
        authority: reception.authority,
    }
}

/// Lets clients go that another site has by now: they are refused here from then on, and count here no
/// more.
pub(crate) async fn let_clients_go(site: &Site) -> Result<(), Error> {
    loop {
        let gone: Vec<ClientId> = client_moves::gone(&site.db().await?, AT_ONCE).await?;
        if gone.is_empty() {
            return Ok(());
        }
        for client_id in &gone {
            if remove(site, *client_id, false).await? {
                metrics::counter!("muster_clients_moved_total", "direction" => "out").increment(1);
                tracing::info!(audit = true, client.id = %client_id, "client is another site's now");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_move_grows_whatever_the_clock_says() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        assert_eq!(number(0, at(1_700_000_000_000)), 1_700_000_000_000);
        assert_eq!(
            number(1_700_000_000_000, at(1_600_000_000_000)),
            1_700_000_000_001
        );
        assert_eq!(number(7, at(-5)), 8);
    }
}
