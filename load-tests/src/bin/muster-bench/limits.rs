//! The same work done the plain way, on the same servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use load_tests::fleet::{Member, SHARDS, Sent, messages, uncell};
use load_tests::ground::Ground;
use muster_compliance::packed;
use muster_domain::UpdateNo;
use muster_domain::states::Detection;
use muster_proto::state as pb;
use muster_rabbitmq::{Batch, Headers, Publisher};
use prost::Message;
use uuid::Uuid;

/// L1: binary COPY of the states, exploded into rows, into a bare logged table. One transaction.
pub(crate) async fn copy(ground: &Ground, members: &[Member], first_no: usize) -> Result<Duration> {
    let db = ground.pool.get().await?;
    db.batch_execute(
        "CREATE TABLE IF NOT EXISTS bare
             (client_no integer, update_no integer, state smallint, serial bigint)",
    )
    .await?;
    let begin = Instant::now();
    let sink = db
        .copy_in::<_, Bytes>("COPY bare FROM STDIN (FORMAT binary)")
        .await?;
    let mut sink = std::pin::pin!(sink);
    let mut buffer = BytesMut::with_capacity(300 * 1024);
    buffer.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for (member, client_no) in members.iter().zip(first_no..) {
        for cell in &member.states {
            let (number, state) = uncell(*cell);
            buffer.put_i16(4);
            buffer.put_i32(4);
            buffer.put_i32(i32::try_from(client_no)?);
            buffer.put_i32(4);
            buffer.put_u32(number.0);
            buffer.put_i32(2);
            buffer.put_i16(i16::from(state.id()));
            buffer.put_i32(8);
            buffer.put_i64(1);
        }
        if buffer.len() > 256 * 1024 {
            sink.feed(buffer.split().freeze()).await?;
            buffer.reserve(300 * 1024);
        }
    }
    buffer.put_i16(-1);
    sink.feed(buffer.freeze()).await?;
    sink.finish().await?;
    let took = begin.elapsed();
    // Not more than one slice at a time on the disk.
    db.batch_execute("TRUNCATE bare").await?;
    Ok(took)
}

/// The same reports through a pipeline that keeps one row per state, with a serial and a time of
/// its own, in a table with a key: what rows instead of a client's arrays would cost.
pub(crate) async fn row_mode(
    ground: &Ground,
    broker: &muster_rabbitmq::Config,
    members: &[Member],
    reports: &[Sent],
) -> Result<Duration> {
    const UPSERT: &str = "
        INSERT INTO row_mode AS held
        SELECT *, now() FROM unnest($1::int4[], $2::int4[], $3::int2[], $4::int8[])
        ON CONFLICT (client_no, update_no) DO UPDATE SET (state, serial, changed_at) =
            (excluded.state, excluded.serial, excluded.changed_at)
        WHERE held.serial < excluded.serial";
    let db = ground.pool.get().await?;
    db.batch_execute(
        "CREATE TABLE row_mode (client_no integer, update_no integer, state smallint NOT NULL,
                                serial bigint NOT NULL, changed_at timestamptz NOT NULL,
                                PRIMARY KEY (client_no, update_no))",
    )
    .await?;
    let numbers: HashMap<Uuid, i32> = members.iter().map(|it| it.id).zip(1..).collect();
    let (numbers, done) = (Arc::new(numbers), Arc::new(AtomicUsize::new(0)));
    let queues: Vec<String> = (0..SHARDS).map(|shard| format!("rows.{shard}")).collect();
    muster_rabbitmq::topology::declare(broker, &queues).await?;
    let publisher = &Publisher::start(broker, &ground.tasks).await?;
    for queue in &queues {
        let (pool, numbers, done) = (ground.pool.clone(), Arc::clone(&numbers), Arc::clone(&done));
        let handler = move |batch: Vec<muster_rabbitmq::Delivery>| {
            let (pool, numbers, done) = (pool.clone(), Arc::clone(&numbers), Arc::clone(&done));
            async move {
                let mut rows: Vec<(i32, i32, i16, i64)> = Vec::new();
                let mut reports = 0;
                for message in batch {
                    for envelope in pb::ReportBatch::decode(message.body)?.reports {
                        let report = pb::Report::decode(envelope.report)?;
                        let client_no = Uuid::from_slice(&report.client_id).ok();
                        let client_no = client_no.and_then(|id| numbers.get(&id).copied());
                        let serial = i64::try_from(report.last_serial)?;
                        let compliance = report.compliance.unwrap_or_default();
                        let states =
                            packed::unpack(&compliance.update_numbers, &compliance.states)?;
                        let row = |(number, state): (UpdateNo, Detection)| {
                            let (no, update) = (client_no?, i32::try_from(number.0).ok()?);
                            Some((no, update, i16::from(state.id()), serial))
                        };
                        rows.extend(states.into_iter().filter_map(row));
                        reports += 1;
                    }
                }
                rows.sort_unstable();
                rows.dedup();
                let no: Vec<i32> = rows.iter().map(|row| row.0).collect();
                let update: Vec<i32> = rows.iter().map(|row| row.1).collect();
                let state: Vec<i16> = rows.iter().map(|row| row.2).collect();
                let serial: Vec<i64> = rows.iter().map(|row| row.3).collect();
                let db = pool.get().await?;
                let upsert = db.prepare_cached(UPSERT).await?;
                db.execute(&upsert, &[&no, &update, &state, &serial])
                    .await?;
                done.fetch_add(reports, Ordering::Relaxed);
                Ok::<(), anyhow::Error>(())
            }
        };
        muster_rabbitmq::consume(broker, queue, Batch::default(), &ground.tasks, handler).await?;
    }
    let messages = messages(reports);
    let begin = Instant::now();
    let sent = futures::stream::iter(messages).map(|(shard, body, count)| {
        let headers = Headers {
            traceparent: None,
            count,
        };
        publisher.publish(&queues[usize::from(shard)], body, headers)
    });
    let mut sent = sent.buffer_unordered(64);
    while let Some(result) = sent.next().await {
        result?;
    }
    while done.load(Ordering::Relaxed) < reports.len() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(begin.elapsed())
}

/// L2: one message and one upsert per state, two queues with a consumer each.
pub(crate) async fn one_by_one(
    ground: &Ground,
    broker: &muster_rabbitmq::Config,
    members: &[Member],
    most: usize,
) -> Result<(usize, Duration)> {
    const UPSERT: &str = "
        INSERT INTO one_by_one AS held VALUES ($1, $2, $3, 1)
        ON CONFLICT (client_no, update_no) DO UPDATE SET (state, serial) =
            (excluded.state, excluded.serial) WHERE held.serial < excluded.serial";
    let db = ground.pool.get().await?;
    db.batch_execute(
        "CREATE TABLE one_by_one (client_no integer, update_no integer, state smallint NOT NULL,
                                  serial bigint NOT NULL, PRIMARY KEY (client_no, update_no))",
    )
    .await?;
    let queues = ["peer.0".to_owned(), "peer.1".to_owned()];
    muster_rabbitmq::topology::declare(broker, &queues).await?;
    let publisher = &Publisher::start(broker, &ground.tasks).await?;
    let done = Arc::new(AtomicUsize::new(0));
    for queue in &queues {
        let (pool, done) = (ground.pool.clone(), Arc::clone(&done));
        let handler = move |batch: Vec<muster_rabbitmq::Delivery>| {
            let (pool, done) = (pool.clone(), Arc::clone(&done));
            async move {
                let db = pool.get().await?;
                let upsert = db.prepare_cached(UPSERT).await?;
                for message in batch {
                    let number = |at: usize| {
                        let four = message.body.get(at..at + 4);
                        i32::from_be_bytes(four.and_then(|it| it.try_into().ok()).unwrap_or([0; 4]))
                    };
                    let state = i16::try_from(number(8)).unwrap_or(0);
                    db.execute(&upsert, &[&number(0), &number(4), &state])
                        .await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), anyhow::Error>(())
            }
        };
        let batch = Batch {
            max: 1,
            wait: Duration::ZERO,
            ..Batch::default()
        };
        muster_rabbitmq::consume(broker, queue, batch, &ground.tasks, handler).await?;
    }
    let states: Vec<(usize, u32)> = members
        .iter()
        .enumerate()
        .flat_map(|(at, member)| member.states.iter().map(move |cell| (at, *cell)))
        .take(most)
        .collect();
    let count = states.len();
    let begin = Instant::now();
    let sent = futures::stream::iter(states).map(|(at, cell)| {
        let (number, state) = uncell(cell);
        let mut body = BytesMut::with_capacity(12);
        body.put_u32(u32::try_from(at).unwrap_or(0));
        body.put_u32(number.0);
        body.put_u32(u32::from(state.id()));
        let queue = &queues[at % 2];
        publisher.publish(queue, body.freeze(), Headers::default())
    });
    let mut sent = sent.buffer_unordered(256);
    while let Some(result) = sent.next().await {
        result?;
    }
    while done.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok((count, begin.elapsed()))
}

/// A table with a key that holds the fleet's states, for [`upsert`].
pub(crate) async fn keyed(ground: &Ground, members: &[Member]) -> Result<()> {
    let db = ground.pool.get().await?;
    db.batch_execute(
        "CREATE TABLE keyed (client_no integer, update_no integer, state smallint NOT NULL,
                             serial bigint NOT NULL, PRIMARY KEY (client_no, update_no))",
    )
    .await?;
    let (mut no, mut update, mut state) = (Vec::new(), Vec::new(), Vec::new());
    for (at, page) in members.chunks(1_000).enumerate() {
        no.clear();
        update.clear();
        state.clear();
        for (member, client_no) in page.iter().zip(at * 1_000 + 1..) {
            for cell in &member.states {
                let (number, it) = uncell(*cell);
                no.push(i32::try_from(client_no)?);
                update.push(i32::try_from(number.0)?);
                state.push(i16::from(it.id()));
            }
        }
        db.execute(
            "INSERT INTO keyed SELECT *, 1 FROM unnest($1::int4[], $2::int4[], $3::int2[])",
            &[&no, &update, &state],
        )
        .await?;
    }
    db.batch_execute("VACUUM ANALYZE keyed").await?;
    Ok(())
}

/// One change as a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) client_no: i32,
    pub(crate) update_no: i32,
    pub(crate) state: i16,
    pub(crate) serial: i64,
}

/// The best plain SQL for changes: sorted, one upsert per batch, one commit per batch, on two
/// connections, in batches as large as the subject's largest.
pub(crate) async fn upsert(ground: &Ground, changes: &[Change], batch: usize) -> Result<Duration> {
    const SQL: &str = "
        INSERT INTO keyed AS held
        SELECT * FROM unnest($1::int4[], $2::int4[], $3::int2[], $4::int8[])
        ON CONFLICT (client_no, update_no) DO UPDATE SET (state, serial) =
            (excluded.state, excluded.serial) WHERE held.serial < excluded.serial";
    let begin = Instant::now();
    let halves: Vec<Vec<Change>> = (0..2)
        .map(|half| {
            let of_half = |change: &&Change| change.client_no % 2 == half;
            changes.iter().filter(of_half).copied().collect()
        })
        .collect();
    let work = halves.into_iter().map(|half| async move {
        let db = ground.pool.get().await?;
        let upsert = db.prepare_cached(SQL).await?;
        for page in half.chunks(batch) {
            // The newest of each key only, as any such pipeline has to; sorted.
            let mut page = page.to_vec();
            page.sort_by_key(|it| (it.client_no, it.update_no, -it.serial));
            page.dedup_by_key(|it| (it.client_no, it.update_no));
            let no: Vec<i32> = page.iter().map(|it| it.client_no).collect();
            let update: Vec<i32> = page.iter().map(|it| it.update_no).collect();
            let state: Vec<i16> = page.iter().map(|it| it.state).collect();
            let serial: Vec<i64> = page.iter().map(|it| it.serial).collect();
            db.execute(&upsert, &[&no, &update, &state, &serial])
                .await?;
        }
        Ok::<(), anyhow::Error>(())
    });
    futures::future::try_join_all(work).await?;
    Ok(begin.elapsed())
}
