//! What is wanted of clients beside their routine reports: what is missing, everything, a
//! registration, another identity. `muster-stream` decides; here it is listed for those who pass it
//! on.

use std::collections::BTreeSet;

use jiff::Timestamp;
use muster_stream::{Moment, Wanted};
use uuid::Uuid;

use super::{Error, Site, record_states};
use crate::domain::report::Stream;
use crate::store::streams::{self, Asked};

/// Asks the clients whose time has come, and gives all that were asked and have not answered,
/// `limit` at most; those that are due longest come first.
pub(crate) async fn wishes(site: &Site, now: Timestamp, limit: i64) -> Result<Vec<Asked>, Error> {
    let due = streams::to_ask(&site.db().await?, now, limit).await?;
    if !due.is_empty() {
        ask(site, due, now).await?;
    }
    streams::asked(&site.db().await?, limit).await
}

/// Each is looked at again, in the database and in memory, while nobody else does: its report may
/// have come since the list was made.
async fn ask(site: &Site, due: Vec<Uuid>, now: Timestamp) -> Result<(), Error> {
    let retry = site.config.retry();
    let moment = Moment {
        now,
        retry: &retry,
        random: rand::random(),
    };
    let ids: BTreeSet<Uuid> = due.into_iter().collect();
    let mut known = site.known_clients.lock(ids.iter().copied()).await;
    record_states::prepare(site, &mut known, &ids).await?;
    let mut asked = Vec::new();
    for id in ids {
        let client = known.get(id).filter(|client| !client.deleted);
        let Some(mut client) = client.cloned() else {
            continue;
        };
        let wish = client.stream.ask(&moment);
        asked.push((id, client, wish));
    }
    let rows: Vec<(i32, &Stream)> = asked
        .iter()
        .map(|(_, client, _)| (client.client_no, &client.stream))
        .collect();
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    site.still_active(&tx).await?;
    streams::keep(&tx, &rows, None).await?;
    // Without an answer to the commit, the database is asked again.
    for (id, ..) in &asked {
        known.forget(*id);
    }
    tx.commit().await?;
    for (id, client, wish) in asked {
        known.keep(id, client);
        if let Some(wish) = wish {
            let wanted = word(&wish.wanted);
            tracing::debug!(client.id = %id, wanted, "client is asked");
            metrics::counter!("muster_state_wishes_total", "wanted" => wanted).increment(1);
        }
    }
    Ok(())
}

const fn word(wanted: &Wanted) -> &'static str {
    match wanted {
        Wanted::Ranges(_) => "ranges",
        Wanted::Full => "full",
        Wanted::Register => "register",
        Wanted::RenewIdentity => "renew_identity",
    }
}
