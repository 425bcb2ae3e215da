//! The limit: what the broker takes for one hop and the database for one commit, with nothing of
//! ours in between: as many messages, as large, and as many commits as the subject made of the
//! same load. Reports are collected into messages on both sides, or the limit would be a queue
//! that drowns in messages which nobody sends.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use lapin::BasicProperties;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use load_tests::fleet::{Random, SHARDS};
use load_tests::ground::Ground;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Names of the queues, one for each of a site's shards.
const QUEUE: &str = "wave-limit";

/// What the subject sends to the broker and commits, per second, at the load that is compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traffic {
    pub(super) messages: f64,
    /// Bytes of one message.
    pub(super) bytes: usize,
    pub(super) commits: f64,
}

/// Milliseconds of each hop and of each commit.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) hops: Vec<f64>,
    pub(super) commits: Vec<f64>,
}

impl Times {
    pub(super) fn extend(&mut self, more: Self) {
        self.hops.extend(more.hops);
        self.commits.extend(more.commits);
    }
}

/// As many messages of the same size, as a Poisson process, through as many quorum queues as ours
/// are: from when each was due to its consumer. Beside it as many commits, of one row.
pub(super) async fn measure(
    ground: &Ground,
    broker: &muster_rabbitmq::Config,
    traffic: Traffic,
    time: Duration,
    random: &mut Random,
) -> Result<Times> {
    let (hops, commits) = tokio::try_join!(
        hops(broker, traffic, time, random),
        commits(ground, traffic.commits, time)
    )?;
    Ok(Times { hops, commits })
}

async fn hops(
    broker: &muster_rabbitmq::Config,
    traffic: Traffic,
    time: Duration,
    random: &mut Random,
) -> Result<Vec<f64>> {
    let sending = muster_rabbitmq::open(broker, "bench").await?;
    let out = sending.create_channel().await?;
    let begin = Instant::now();
    let queues: Vec<String> = (0..SHARDS).map(|at| format!("{QUEUE}-{at}")).collect();
    let mut consumers = JoinSet::new();
    for queue in &queues {
        let mut table = FieldTable::default();
        table.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        let options = QueueDeclareOptions::durable();
        out.queue_declare(queue.as_str().into(), options, table)
            .await?;
        let receiving = muster_rabbitmq::open(broker, "bench").await?;
        let back = receiving.create_channel().await?;
        back.basic_qos(512, BasicQosOptions::default()).await?;
        let consumer = back.basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = consumer.await.context("cannot consume the limit's queue")?;
        consumers.spawn(consume(consumer, receiving, back, begin));
    }
    out.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut due = begin.elapsed();
    let end = due + time;
    let (mut turn, mut confirms) = (0, Vec::new());
    let mut body = vec![7; traffic.bytes.max(8)];
    let mut publish = async |queue: &str, due: Duration| {
        body[..8].copy_from_slice(&u64::try_from(due.as_nanos())?.to_le_bytes());
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = out.basic_publish("".into(), queue.into(), options, &body, properties);
        confirms.push(sent.await.context("cannot publish to the limit's queue")?);
        anyhow::Ok(())
    };
    loop {
        due += random.pause(traffic.messages);
        if due >= end {
            break;
        }
        if begin.elapsed() < due {
            sleep_until(begin + due).await;
        }
        publish(&queues[turn % queues.len()], due).await?;
        turn += 1;
    }
    for queue in &queues {
        publish(queue, Duration::ZERO).await?;
    }
    for confirm in confirms {
        confirm.await.context("a message of the limit was lost")?;
    }
    let mut times = Vec::new();
    while let Some(consumed) = consumers.join_next().await {
        times.extend(consumed?.context("a consumer of the limit failed")?);
    }
    for queue in &queues {
        out.queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
            .await?;
    }
    sending.close(200, "OK".into()).await?;
    Ok(times)
}

/// Takes messages until the one that is never due, and acknowledges each.
async fn consume(
    mut consumer: lapin::Consumer,
    connection: lapin::Connection,
    channel: lapin::Channel,
    begin: Instant,
) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    while let Some(message) = consumer.next().await {
        let message = message?;
        let bytes: [u8; 8] = message.data.get(..8).context("too short")?.try_into()?;
        let due = Duration::from_nanos(u64::from_le_bytes(bytes));
        if due.is_zero() {
            break;
        }
        times.push((begin.elapsed().saturating_sub(due)).as_secs_f64() * 1e3);
        let options = BasicAckOptions::default();
        channel.basic_ack(message.delivery_tag, options).await?;
    }
    // The consumer goes before its queue does.
    channel.close(200, "OK".into()).await?;
    connection.close(200, "OK".into()).await?;
    Ok(times)
}

async fn commits(ground: &Ground, rate: f64, time: Duration) -> Result<Vec<f64>> {
    let mut db = ground.pool.get().await?;
    db.batch_execute("CREATE TABLE IF NOT EXISTS wave_limit (n bigint NOT NULL)")
        .await?;
    let insert = db.prepare("INSERT INTO wave_limit VALUES ($1)").await?;
    let (begin, mut times) = (Instant::now(), Vec::new());
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate.max(1.0)));
    while begin.elapsed() < time {
        ticks.tick().await;
        let started = Instant::now();
        let tx = db.transaction().await?;
        tx.execute(&insert, &[&1_i64]).await?;
        tx.commit().await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}
