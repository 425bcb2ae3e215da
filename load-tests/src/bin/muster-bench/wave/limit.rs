//! The limit: what the broker takes for one hop and the database for one commit, with nothing of
//! ours in between, at the rate of the reports.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use lapin::BasicProperties;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use load_tests::fleet::Random;
use load_tests::ground::Ground;
use tokio::time::{Instant, sleep_until};

const QUEUE: &str = "wave-limit";
/// About what an envelope with one state is.
const BODY: usize = 120;
/// Commits per second: about what the site server makes at full load.
const COMMITS: u64 = 50;

/// Milliseconds of each hop and of each commit.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) hops: Vec<f64>,
    pub(super) commits: Vec<f64>,
}

/// Messages at this rate, as a Poisson process, one for each report, through a quorum queue as
/// ours are: from when each was due to its consumer. Beside it commits of one row.
pub(super) async fn measure(
    ground: &Ground,
    broker: &muster_rabbitmq::Config,
    rate: f64,
    time: Duration,
    random: &mut Random,
) -> Result<Times> {
    let (hops, commits) =
        tokio::try_join!(hops(broker, rate, time, random), commits(ground, time))?;
    Ok(Times { hops, commits })
}

async fn hops(
    broker: &muster_rabbitmq::Config,
    rate: f64,
    time: Duration,
    random: &mut Random,
) -> Result<Vec<f64>> {
    let (sending, receiving) = (
        muster_rabbitmq::open(broker, "bench").await?,
        muster_rabbitmq::open(broker, "bench").await?,
    );
    let (out, back) = (
        sending.create_channel().await?,
        receiving.create_channel().await?,
    );
    let mut table = FieldTable::default();
    table.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    out.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), table)
        .await?;
    out.confirm_select(ConfirmSelectOptions::default()).await?;
    back.basic_qos(512, BasicQosOptions::default()).await?;
    let consumer = back.basic_consume(
        QUEUE.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consumer.await.context("cannot consume the limit's queue")?;
    let begin = Instant::now();
    #[allow(clippy::disallowed_methods)] // its handle is awaited
    let consumed = tokio::spawn(async move {
        let mut times = Vec::new();
        while let Some(message) = consumer.next().await {
            let message = message?;
            let bytes: [u8; 8] = message.data.get(..8).context("too short")?.try_into()?;
            let due = Duration::from_nanos(u64::from_le_bytes(bytes));
            if due.is_zero() {
                break;
            }
            times.push((begin.elapsed().saturating_sub(due)).as_secs_f64() * 1e3);
            if times.len() % 32 == 0 {
                let options = BasicAckOptions { multiple: true };
                back.basic_ack(message.delivery_tag, options).await?;
            }
        }
        Ok::<_, anyhow::Error>((times, back))
    });
    let mut due = Duration::ZERO;
    let mut confirms = Vec::new();
    let mut body = [7; BODY];
    let mut publish = async |due: Duration| {
        body[..8].copy_from_slice(&u64::try_from(due.as_nanos())?.to_le_bytes());
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = out.basic_publish("".into(), QUEUE.into(), options, &body, properties);
        confirms.push(sent.await.context("cannot publish to the limit's queue")?);
        anyhow::Ok(())
    };
    loop {
        let unit = f64::from(u32::try_from(random.any() >> 32).unwrap_or(0)) + 1.0;
        due += Duration::from_secs_f64(-(unit / 4_294_967_297.0).ln() / rate);
        if due >= time {
            break;
        }
        if begin.elapsed() < due {
            sleep_until(begin + due).await;
        }
        publish(due).await?;
    }
    publish(Duration::ZERO).await?;
    for confirm in confirms {
        confirm.await.context("a message of the limit was lost")?;
    }
    let (times, back) = consumed
        .await?
        .context("the consumer of the limit failed")?;
    // The consumer goes before its queue does.
    back.close(200, "OK".into()).await?;
    receiving.close(200, "OK".into()).await?;
    out.queue_delete(QUEUE.into(), QueueDeleteOptions::default())
        .await?;
    sending.close(200, "OK".into()).await?;
    Ok(times)
}

async fn commits(ground: &Ground, time: Duration) -> Result<Vec<f64>> {
    let mut db = ground.pool.get().await?;
    db.batch_execute("CREATE TABLE IF NOT EXISTS wave_limit (n bigint NOT NULL)")
        .await?;
    let insert = db.prepare("INSERT INTO wave_limit VALUES ($1)").await?;
    let (begin, mut times) = (Instant::now(), Vec::new());
    let mut ticks = tokio::time::interval(Duration::from_millis(1_000 / COMMITS));
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
