//! One synchronisation from the software update point above: its updates under its numbers and
//! generations, proven by the vendor's signed files before any of them counts.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use muster_proto::catalog as pb;
use muster_proto::convert::from_timestamp;
use prost::Message;

use super::error::Cause;
use super::fetch_suite::{NewSuite, blocking};
use super::plan_sources::plan_sources;
use super::read_indexes::{Reading, read_indexes};
use super::sync_catalog::{sweep, tell};
use super::verify_suite::{fetch_files, verify_suite};
use super::{Failure, Point};
use crate::domain::archive::{SignedFile, SuiteSnapshot, SuiteState};
use crate::domain::channel::Channel;
use crate::domain::collect::{Incoming, Leaf, MAX_UPDATES};
use crate::domain::diff::SuiteKey;
use crate::domain::replica::{self, Head, Replica, Taken};
use crate::domain::sync::{Kind, Phase, RejectedStanza, Sync};
use crate::store;
use crate::store::parent::{Parent, ParentError, Parts, Upstream};

/// The most suites, and components of suites.
const MAX_SUITES: usize = 1_000;
/// The most bytes of a catalog.
const MAX_BYTES: usize = 2 << 30;
/// The longest text of an update.
const MAX_TEXT: usize = 10_000;

/// Runs the synchronisation that `sync` describes. On an error nothing of the catalog has changed.
pub(crate) async fn take_over_catalog(
    point: &Point,
    parent: &Parent,
    sync: &mut Sync,
) -> Result<Vec<RejectedStanza>, Failure> {
    let now = Timestamp::now();
    point.refresh().await?;
    tell(point, sync, Phase::Fetching, "asking the parent");
    let upstream = parent.connect().await.map_err(cause)?;
    let held = point.catalog();
    let same = upstream.offered.generation == held.generation
        && upstream.offered.stamp[..] == held.stamp[..]
        && held.generation > 0;
    if same && sync.kind == Kind::Delta {
        sync.generation = held.generation;
        "the parent has nothing newer".clone_into(&mut sync.detail);
        return Ok(Vec::new());
    }
    tell(point, sync, Phase::Fetching, "the parent's updates");
    let parts = upstream.stream(held.generation, &held.stamp, sync.kind == Kind::Full);
    let mut parts = parts.await.map_err(cause)?;
    let (mut head, replicas) = receive(&mut parts, &mut sync.counts.bytes_fetched)
        .await
        .map_err(|cause| cause.at("the parent"))?;
    let suites = verify(point, &upstream, sync, &mut head, now).await?;

    tell(point, sync, Phase::Fetching, "reading the indexes");
    let wanted = replica::to_prove(&held, &head, &replicas);
    let mut read = Vec::new();
    let states: Vec<SuiteState> = suites.iter().map(|suite| suite.state.clone()).collect();
    for suite in suites {
        sync.counts.bytes_fetched += fetch_files(point, &upstream, &suite).await?;
        if wanted.contains(&key(&suite.state.snapshot)) {
            read.push(Box::new(suite));
        }
    }
    let (artifacts, text_bytes) = (point.artifacts.clone(), point.fetch.text_bytes);
    let reading = blocking(move || read_indexes(&artifacts, &read, text_bytes)).await??;
    sync.counts.stanzas = reading.stanzas;
    sync.counts.stanzas_rejected = reading.stanzas_rejected;

    tell(point, sync, Phase::Recording, "recording what has changed");
    let received = replicas.len();
    let (head, rejected, taken) = {
        let held = Arc::clone(&held);
        blocking(move || {
            let rejected = reading.rejected.clone();
            let signed = by_id(&head, reading);
            let taken = replica::take_over(&held, &head, replicas, &signed, now);
            (head, rejected, taken)
        })
        .await?
    };
    let taken = taken.map_err(|refusal| Cause::from(refusal).at("the parent"))?;
    record(point, sync, &head, &taken, &states, now).await?;
    point.refresh().await?;
    sweep(point).await;
    let all = if head.full { "all of them" } else { "changed" };
    sync.detail = format!(
        "{received} updates from the parent ({all}), {} written, {} suites",
        taken.replicas.len(),
        states.len()
    );
    if taken.stale > 0 {
        tracing::info!(
            updates = taken.stale,
            "in force at the parent and no more in the vendor's files: expired here"
        );
    }
    Ok(rejected)
}

fn cause(error: ParentError) -> Failure {
    match error {
        ParentError::None => Cause::NoParent,
        ParentError::Mismatch(mismatch) => Cause::Mismatch(mismatch),
        ParentError::Away(_) | ParentError::Write(_) => Cause::Parent(error.to_string()),
    }
    .at("the parent")
}

fn key(snapshot: &SuiteSnapshot) -> SuiteKey {
    (snapshot.archive_uri.clone(), snapshot.suite.clone())
}

/// Verifies the suites of the head, and lets their releases say what its channels are.
async fn verify(
    point: &Point,
    upstream: &Upstream,
    sync: &mut Sync,
    head: &mut Head,
    now: Timestamp,
) -> Result<Vec<NewSuite>, Failure> {
    let source = point.source.clone();
    // Without sources of our own the default keyrings decide.
    let own = blocking(move || plan_sources(&source))
        .await?
        .unwrap_or_default();
    let held = {
        let db = point
            .pool
            .get()
            .await
            .map_err(muster_postgres::Error::from)?;
        store::suites::all(&db).await?
    };
    let mut suites = Vec::with_capacity(head.suites.len());
    for (snapshot, fully_applied) in &head.suites {
        let detail = format!("{}: InRelease", snapshot.suite);
        tell(point, sync, Phase::Fetching, &detail);
        let known = held.iter().find(|it| key(&it.snapshot) == key(snapshot));
        let (snapshot, applied) = (snapshot.clone(), *fully_applied);
        let (suite, received) =
            verify_suite(point, upstream, snapshot, applied, &own, known, now).await?;
        sync.counts.bytes_fetched += received;
        suites.push(suite);
    }
    for channel in &mut head.channels {
        let verified = suites.iter().find(|suite| {
            let snapshot = &suite.state.snapshot;
            snapshot.archive_uri == channel.archive_uri && snapshot.suite == channel.suite
        });
        if let Some(suite) = verified {
            let (uri, name) = (&channel.archive_uri, &channel.suite);
            *channel = Channel::new(uri, name, &channel.component, &suite.release);
        }
    }
    Ok(suites)
}

/// What the signed files say, with the head's channels.
fn by_id(head: &Head, reading: Reading) -> HashMap<String, Incoming> {
    let place = |channel: &Channel| head.channels.iter().position(|it| it == channel);
    let places: Vec<Option<usize>> = reading.channels.iter().map(place).collect();
    let known = reading.updates.into_iter().filter_map(|mut update| {
        update.channel = places.get(update.channel).copied().flatten()?;
        Some((update.update_id.clone(), update))
    });
    known.collect()
}

/// One transaction, which puts the parent's generation in force.
async fn record(
    point: &Point,
    sync: &mut Sync,
    head: &Head,
    taken: &Taken,
    states: &[SuiteState],
    now: Timestamp,
) -> Result<(), Failure> {
    let mut db = point
        .pool
        .get()
        .await
        .map_err(muster_postgres::Error::from)?;
    let tx = db.transaction().await?;
    let (generation, _) = store::catalog::lock(&tx).await?;
    if generation != point.catalog().generation {
        return Err(Cause::Overtaken.at("the catalog"));
    }
    let numbers = store::updates::put_channels(&tx, &head.channels).await?;
    store::replicas::put(&tx, &taken.replicas, &head.channels, &numbers).await?;
    let gone: Vec<SuiteKey> = store::suites::all(&tx)
        .await?
        .iter()
        .map(|held| key(&held.snapshot))
        .filter(|held| states.iter().all(|it| key(&it.snapshot) != *held))
        .collect();
    for state in states {
        store::suites::put(&tx, state).await?;
    }
    store::suites::forget(&tx, &gone).await?;
    store::suites::take_snapshot(&tx, head.generation).await?;
    let (next, stamp) = (head.next_update_no, Some(&head.stamp[..]));
    store::catalog::advance(&tx, head.generation, next, now, stamp).await?;
    tx.commit().await?;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    sync.counts.updates_new = count(taken.new);
    sync.counts.updates_modified = count(taken.modified);
    sync.counts.updates_expired = count(taken.expired);
    sync.generation = head.generation;
    Ok(())
}

/// The whole stream, checked for form and bounds.
async fn receive(parts: &mut Parts, bytes: &mut u64) -> Result<(Head, Vec<Replica>), Cause> {
    let away = |error: ParentError| Cause::Parent(error.to_string());
    let malformed = |why: &str| Cause::Malformed(why.to_owned());
    let first = parts.next().await.map_err(away)?;
    let head = first.and_then(|first| first.head);
    let head = head.ok_or_else(|| malformed("the catalog has no head"))?;
    let (mut size, head) = (head.encoded_len(), parse_head(head)?);
    let mut replicas: Vec<Replica> = Vec::new();
    while let Some(part) = parts.next().await.map_err(away)? {
        size += part.encoded_len();
        if size > MAX_BYTES || replicas.len() + part.updates.len() > MAX_UPDATES {
            return Err(malformed("the catalog is too large"));
        }
        for update in part.updates {
            let replica = parse(&head, update).map_err(malformed)?;
            let last = replicas.last().map_or(0, |last| last.update_no);
            if replica.update_no <= last || replica.update_no >= head.next_update_no {
                return Err(malformed("an update has a number out of order"));
            }
            replicas.push(replica);
        }
        if part.end {
            *bytes += size as u64;
            return Ok((head, replicas));
        }
    }
    Err(Cause::Parent("the catalog was cut off".to_owned()))
}

fn parse_head(head: pb::CatalogHead) -> Result<Head, Cause> {
    let malformed = |why: &str| Cause::Malformed(why.to_owned());
    let in_bounds = head.suites.len() <= MAX_SUITES && head.channels.len() <= MAX_SUITES;
    let numbers = head.generation > 0
        && i64::try_from(head.generation).is_ok()
        && (1..=MAX_UPDATES).contains(&(head.next_update_no as usize));
    if !in_bounds || !numbers || head.stamp.len() != 16 {
        return Err(malformed("the head is out of bounds"));
    }
    let suite = |it: pb::ReplicaSuite| -> Result<(SuiteSnapshot, bool), Cause> {
        let suite = it.suite.ok_or_else(|| malformed("a suite is missing"))?;
        let http = ["http://", "https://"]
            .iter()
            .any(|scheme| suite.archive_uri.starts_with(scheme));
        let texts = [&suite.archive_uri, &suite.suite, &suite.signed_by]
            .into_iter()
            .chain(&suite.components)
            .chain(&suite.architectures);
        if !http || !texts.into_iter().all(|text| is_text(text)) || suite.files.len() > MAX_SUITES {
            return Err(malformed("a suite is out of bounds"));
        }
        let files = suite.files.into_iter().map(|file| {
            Some(SignedFile {
                sha256: file.sha256[..].try_into().ok()?,
                path: file.path,
                size: file.size,
            })
        });
        let files: Option<Vec<SignedFile>> = files.collect();
        let snapshot = SuiteSnapshot {
            files: files.ok_or_else(|| malformed("a hash is none"))?,
            archive_uri: suite.archive_uri,
            suite: suite.suite,
            components: suite.components,
            architectures: suite.architectures,
            signed_by: suite.signed_by,
            ignore_valid_until: suite.ignore_valid_until,
        };
        Ok((snapshot, it.fully_applied))
    };
    let channels = head.channels.into_iter().map(|it| Channel {
        archive_uri: it.archive_uri,
        suite: it.suite,
        component: it.component,
        origin: it.origin,
        label: it.label,
        archive_suite: it.archive_suite,
        codename: it.codename,
        version: it.version,
        not_automatic: it.not_automatic,
        but_automatic_upgrades: it.but_automatic_upgrades,
    });
    let time = head
        .created_at
        .as_ref()
        .map(|at| from_timestamp("created_at", at));
    Ok(Head {
        generation: head.generation,
        stamp: head.stamp.to_vec(),
        changed_at: time
            .transpose()
            .map_err(|_| malformed("a time is none"))?
            .unwrap_or_default(),
        next_update_no: head.next_update_no,
        full: head.full,
        known: head.known,
        suites: head
            .suites
            .into_iter()
            .map(suite)
            .collect::<Result<_, _>>()?,
        channels: channels.collect(),
    })
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.contains('\0')
}

fn parse(head: &Head, message: pb::ReplicaUpdate) -> Result<Replica, &'static str> {
    const TIME: &str = "a time is none";
    let update = message.update.ok_or("an update is missing")?;
    let channel = message.channel as usize;
    if channel >= head.channels.len() {
        return Err("an update of no channel");
    }
    let texts = [
        &update.update_id,
        &update.source_package,
        &update.source_version,
        &update.description,
    ];
    if !texts
        .into_iter()
        .chain(&update.cve_ids)
        .all(|text| is_text(text))
    {
        return Err("a text is too long");
    }
    let generations = [
        update.generation,
        message.scan_generation,
        message.first_generation,
        message.expired_generation,
    ];
    let numbers = update.supersedes.iter().chain(&update.superseded_by);
    let known = |number: &u32| (1..head.next_update_no).contains(number);
    if generations.iter().any(|it| *it > head.generation) || !numbers.into_iter().all(known) {
        return Err("a number is out of bounds");
    }
    let released_at = update.released_at.as_ref();
    let released_at = released_at.and_then(|at| from_timestamp("released_at", at).ok());
    let expired_at = update.expired_at.as_ref();
    let expired_at = expired_at.and_then(|at| from_timestamp("expired_at", at).ok());
    let expired = match message.expired_generation {
        0 => None,
        generation => Some((generation, expired_at.ok_or(TIME)?)),
    };
    Ok(Replica {
        update_no: update.update_no,
        revision: update.revision,
        generation: update.generation,
        scan_generation: message.scan_generation,
        first_generation: message.first_generation,
        expired,
        severity: i16::try_from(update.severity).map_err(|_| "a severity is none")?,
        cve_ids: update.cve_ids,
        supersedes: update.supersedes,
        superseded_by: update.superseded_by,
        max_run_time_minutes: update.max_run_time_minutes,
        needs_exclusive_handling: update.needs_exclusive_handling,
        incoming: Incoming {
            update_id: update.update_id,
            channel,
            source: update.source_package,
            version: update.source_version,
            description: update.description,
            released_at: released_at.ok_or(TIME)?,
            leaves: update
                .leaves
                .into_iter()
                .map(leaf)
                .collect::<Result<_, _>>()?,
        },
    })
}

fn leaf(leaf: pb::Leaf) -> Result<Leaf, &'static str> {
    let file = leaf.file.ok_or("a leaf without a file")?;
    let texts = [&leaf.package, &leaf.version, &leaf.architecture, &file.path];
    if !texts.into_iter().all(|text| is_text(text)) || i64::try_from(file.size).is_err() {
        return Err("a leaf is out of bounds");
    }
    Ok(Leaf {
        package: leaf.package,
        version: leaf.version,
        architecture: leaf.architecture,
        phased_percentage: u8::try_from(leaf.phased_percentage)
            .ok()
            .filter(|it| *it <= 100)
            .ok_or("a percentage is none")?,
        sha256: file.sha256[..].try_into().map_err(|_| "a hash is none")?,
        size: file.size,
        path: file.path,
    })
}
