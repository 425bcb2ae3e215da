//! The collector against a broker that does as it is told.

use std::sync::Mutex;

use muster_proto::state::ReportEnvelope;
use tokio::sync::oneshot;

use super::*;
use crate::app::Collector;

/// Remembers messages; answers when a permit is given, with what is set.
struct Pretend {
    seen: Mutex<Vec<(String, ReportBatch)>>,
    answers: Semaphore,
    works: bool,
}

impl Broker for Pretend {
    async fn publish(
        &self,
        key: &str,
        body: Bytes,
        headers: Headers,
    ) -> Result<(), muster_rabbitmq::Error> {
        let batch = ReportBatch::decode(body).unwrap();
        assert_eq!(headers.count as usize, batch.reports.len());
        self.seen.lock().unwrap().push((key.to_owned(), batch));
        self.answers.acquire().await.unwrap().forget();
        if self.works {
            Ok(())
        } else {
            Err(muster_rabbitmq::Error::Unavailable("away"))
        }
    }
}

struct World {
    broker: Arc<Pretend>,
    collector: Arc<Collector>,
    tasks: Tasks,
}

fn world(works: bool, change: impl FnOnce(&mut Config)) -> World {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/config/management-point.toml"
    );
    let mut config: Config = muster_runtime::config::load(file).unwrap();
    change(&mut config);
    let (seen, answers) = (Mutex::default(), Semaphore::new(0));
    let (broker, tasks) = (
        Arc::new(Pretend {
            seen,
            answers,
            works,
        }),
        Tasks::new(),
    );
    let (collector, inboxes) = Collector::new(&config);
    collect_for(&config, inboxes, &broker, &tasks);
    let collector = Arc::new(collector);
    World {
        broker,
        collector,
        tasks,
    }
}

fn reports(count: usize, bytes: usize) -> Vec<ReportEnvelope> {
    vec![
        ReportEnvelope {
            report: vec![7; bytes].into(),
            ..Default::default()
        };
        count
    ]
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn many_calls_become_one_message_and_all_wait_for_its_confirm() {
    let world = world(true, |_| {});
    let calls: Vec<_> = (0..40)
        .map(|_| world.collector.hand_over(Lane::Shard(1), reports(1, 9)))
        .collect();
    let mut calls = std::pin::pin!(futures::future::try_join_all(calls));
    let early = tokio::time::timeout(Duration::from_millis(100), calls.as_mut()).await;
    assert!(
        early.is_err(),
        "nobody is told yes before the broker has confirmed"
    );
    world.broker.answers.add_permits(1);
    calls.await.unwrap();
    let seen = world.broker.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].0.as_str(), seen[0].1.reports.len()), ("1", 40));
    assert_eq!(
        seen[0].1.reports[0].report.as_ref(),
        [7; 9],
        "byte for byte"
    );
}

#[tokio::test]
async fn a_message_is_bounded_in_reports_and_in_bytes() {
    let world = world(true, |_| {});
    world.broker.answers.add_permits(100);
    let call = |n, bytes| world.collector.hand_over(Lane::Urgent, reports(n, bytes));
    futures::future::try_join_all((0..10).map(|_| call(15, 9)))
        .await
        .unwrap();
    futures::future::try_join_all((0..6).map(|_| call(1, 1024 * 1024)))
        .await
        .unwrap();
    let seen = world.broker.seen.lock().unwrap();
    let counts: Vec<_> = seen.iter().map(|(_, batch)| batch.reports.len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 156);
    assert!(counts.iter().all(|count| *count <= 64), "{counts:?}");
    assert!(
        seen.iter()
            .all(|(key, batch)| key == "urgent" && batch.encoded_len() < 4 << 20)
    );
}

#[tokio::test]
async fn when_the_broker_is_away_every_caller_keeps_its_reports() {
    let world = world(false, |_| {});
    world.broker.answers.add_permits(1);
    let calls = (0..3).map(|_| world.collector.hand_over(Lane::Shard(0), reports(1, 9)));
    for result in futures::future::join_all(calls).await {
        assert!(matches!(result, Err(Error::Broker(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_full_collector_says_so_at_once_and_empties_again() {
    let world = world(true, |config| config.collect.max_bytes = 1000);
    let collector = Arc::clone(&world.collector);
    let (done, outcome) = oneshot::channel();
    world.tasks.spawn("caller", async move {
        let _ = done.send(collector.hand_over(Lane::Shard(0), reports(1, 900)).await);
    });
    settle().await;
    let second = world
        .collector
        .hand_over(Lane::Shard(1), reports(1, 900))
        .await;
    assert!(matches!(second, Err(Error::CollectorFull(_))), "{second:?}");
    world.broker.answers.add_permits(2);
    outcome.await.unwrap().unwrap();
    world
        .collector
        .hand_over(Lane::Shard(1), reports(1, 900))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_was_handed_over_before_the_end_is_still_sent() {
    let world = world(true, |_| {});
    world.broker.answers.add_permits(10);
    let collector = Arc::clone(&world.collector);
    let (done, outcome) = oneshot::channel();
    world.tasks.spawn("caller", async move {
        let _ = done.send(collector.hand_over(Lane::Shard(0), reports(1, 9)).await);
    });
    tokio::task::yield_now().await;
    assert!(world.tasks.stop(Duration::from_secs(5)).await.is_empty());
    outcome.await.unwrap().unwrap();
    let late = world
        .collector
        .hand_over(Lane::Shard(0), reports(1, 9))
        .await;
    assert!(matches!(late, Err(Error::Stopping)), "{late:?}");
}
