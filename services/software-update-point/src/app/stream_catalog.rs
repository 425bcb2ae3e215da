//! The catalog for a software update point below, as one state of it.

use super::{Error, Point};
use crate::domain::replica::{Head, Row};
use crate::store::{self, replicas};

/// Updates read at a time.
const PAGE: u32 = 200;

/// A part of the stream.
#[derive(Debug)]
pub(crate) enum Part {
    /// What it begins with.
    Head(Box<Head>),
    /// Updates; their channels are indexes into the head's.
    Page(Vec<(usize, Row)>),
    /// Everything was sent.
    End,
}

/// Hands all parts to `send`, until it says that nobody listens any more.
pub(crate) async fn stream_catalog<S>(
    point: &Point,
    after_generation: u64,
    stamp: &[u8],
    full: bool,
    mut send: impl FnMut(Part) -> S,
) -> Result<(), Error>
where
    S: Future<Output = bool>,
{
    let mut db = point
        .pool
        .get()
        .await
        .map_err(muster_postgres::Error::from)?;
    // Pages belong together: a synchronisation may end meanwhile.
    let tx = db
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let (generation, next_update_no, changed_at) = store::catalog::in_force(&tx).await?;
    if generation == 0 {
        return Err(Error::NoCatalog);
    }
    let known = after_generation > 0
        && after_generation <= generation
        && store::catalog::stamp(&tx, after_generation)
            .await?
            .as_deref()
            == Some(stamp);
    let channels = store::catalog::channels(&tx).await?;
    let suites = store::suites::all(&tx).await?.into_iter();
    let suites = suites
        .filter(|state| !state.snapshot.files.is_empty())
        .map(|state| (state.snapshot, state.fully_applied));
    let head = Head {
        generation,
        stamp: store::catalog::stamp(&tx, generation)
            .await?
            .unwrap_or_default(),
        changed_at,
        next_update_no,
        full: full || !known,
        known,
        suites: suites.collect(),
        channels: channels
            .iter()
            .map(|(_, channel)| channel.clone())
            .collect(),
    };
    if !send(Part::Head(Box::new(head))).await {
        return Ok(());
    }
    let after_generation = if known && !full { after_generation } else { 0 };
    let mut after = 0;
    loop {
        let rows = replicas::page(&tx, after, after_generation, PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = last.update.update_no;
        let place = |row: Row| {
            let at = channels.binary_search_by_key(&row.channel_no, |(number, _)| *number);
            (at.unwrap_or(0), row)
        };
        if !send(Part::Page(rows.into_iter().map(place).collect())).await {
            return Ok(());
        }
    }
    tx.commit().await?;
    send(Part::End).await;
    Ok(())
}
