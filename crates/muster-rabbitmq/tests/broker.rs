//! Against a real, private RabbitMQ that offers mutual TLS only, and that is killed.
#![allow(clippy::unwrap_used)] // a failure here is a failure of the test

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_local::packages::{self, Install};
use muster_local::rabbit::{Listener, Management, User};
use muster_local::{Interrupt, Rabbit, State};
use muster_rabbitmq::{
    Batch, Config, Declare, Error, Headers, MAX_BODY, Monitor, Publisher, consume,
    consume_declared, topology,
};
use muster_runtime::Role;
use muster_runtime::Tasks;
use muster_runtime::config::TlsConfig;
use muster_runtime::tls::ca::CertificateAuthority;

const VHOST: &str = "P01";
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    rabbit: Rabbit,
    tls: TlsConfig,
    _folder: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        muster_runtime::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create(&folder.path().join("ca"), "P01").unwrap();
        let certificate = |role, name: &str, hosts: &[&str]| {
            let issued = ca.issue(role, name, hosts).unwrap();
            issued.write(folder.path(), name, ca.path()).unwrap()
        };
        let server = certificate(Role::MessageBroker, "broker", &["localhost", "127.0.0.1"]);
        let tls = certificate(Role::ManagementPoint, "mp1", &[]);
        let state = State::open(&folder.path().join("state"), Interrupt::default()).unwrap();
        let programs = packages::ensure(Install::No, &|_| {}).unwrap();
        let listener = Listener::Tls {
            ca: server.ca,
            cert: server.cert,
            key: server.key,
        };
        let rabbit = Rabbit::start(&state, &programs, &listener, Management::Off).unwrap();
        let user = |name: &str, configure: &str, write: &str, read: &str| User {
            name: name.to_owned(),
            configure: configure.to_owned(),
            write: write.to_owned(),
            read: read.to_owned(),
        };
        let users = [
            user(
                "site",
                "^site\\.P01\\.",
                "^(site\\.P01\\..*|amq\\.default)$",
                "^site\\.P01\\.",
            ),
            user("mp", "^$", "^(site\\.P01\\.states|amq\\.default)$", "^$"),
        ];
        rabbit.define(VHOST, &users).unwrap();
        Self {
            rabbit,
            tls,
            _folder: folder,
        }
    }

    fn config(&self, user: &str) -> Config {
        let uri = format!("amqps://127.0.0.1:{}/{VHOST}", self.rabbit.amqp_port());
        let mut config = Config::new(uri, user, self.rabbit.password_file(user));
        config.tls = Some(self.tls.clone());
        config
    }
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One broker for all of it: its start takes longer than the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_keeps_what_it_confirmed_and_gives_it_to_who_may_have_it() {
    let mut world = tokio::task::spawn_blocking(World::start).await.unwrap();
    for _ in 0..2 {
        // Again changes nothing.
        topology::declare_states(&world.config("site"), "P01", 2)
            .await
            .unwrap();
    }

    strangers_are_refused(&world).await;
    a_message_arrives_with_what_its_sender_said(&world).await;
    what_cannot_be_kept_is_not_confirmed(&world).await;
    the_exchange_leads_to_the_shard(&world).await;
    a_failed_batch_comes_again(&world).await;
    a_queue_that_is_gone_is_made_again(&world).await;
    nothing_that_was_confirmed_is_lost_when_the_broker_is_killed(&mut world).await;
}

async fn strangers_are_refused(world: &World) {
    let tasks = Tasks::new();
    let queues = topology::state_queues("P01", 2);
    assert!(
        topology::declare(&world.config("mp"), &queues)
            .await
            .is_err(),
        "mp may not configure"
    );
    let wrong = Config {
        password_file: PathBuf::from("/dev/null"),
        ..world.config("mp")
    };
    assert!(
        Publisher::start(&wrong, &tasks).await.is_err(),
        "wrong password"
    );
    let plain = Config {
        tls: None,
        ..world.config("mp")
    };
    assert!(matches!(
        Publisher::start(&plain, &tasks).await,
        Err(Error::Config(_))
    ));
    let other = tempfile::tempdir().unwrap();
    let ca = CertificateAuthority::create(other.path(), "P01").unwrap();
    let issued = ca.issue(Role::ManagementPoint, "mp1", &[]).unwrap();
    let mut foreign = issued.write(other.path(), "mp1", ca.path()).unwrap();
    let not_trusting = Config {
        tls: Some(foreign.clone()),
        ..world.config("mp")
    };
    assert!(
        Publisher::start(&not_trusting, &tasks).await.is_err(),
        "broker of another authority"
    );
    foreign.ca.clone_from(&world.tls.ca);
    let not_trusted = Config {
        tls: Some(foreign),
        ..world.config("mp")
    };
    assert!(
        Publisher::start(&not_trusted, &tasks).await.is_err(),
        "client of another authority"
    );
}

async fn a_message_arrives_with_what_its_sender_said(world: &World) {
    let tasks = Tasks::new();
    let publisher = Publisher::start(&world.config("mp"), &tasks).await.unwrap();
    let queue = topology::urgent_queue("P01");
    let headers = Headers {
        traceparent: Some("00-a-b-01".to_owned()),
        count: 3,
    };
    publisher
        .publish(&queue, Bytes::from_static(b"hello"), headers.clone())
        .await
        .unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    consume(
        &world.config("site"),
        &queue,
        Batch::default(),
        &tasks,
        move |batch| {
            sink.lock().unwrap().extend(batch);
            async { Ok::<(), Error>(()) }
        },
    )
    .await
    .unwrap();
    eventually("the message arrives", async || {
        seen.lock().unwrap().len() == 1
    })
    .await;
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0].body.as_ref(), b"hello");
        assert_eq!(seen[0].headers, headers);
        assert_eq!(seen[0].user.as_deref(), Some("mp"));
        assert!(seen[0].age().unwrap() < PATIENCE);
    }
    assert!(tasks.stop(PATIENCE).await.is_empty());
    let monitor = Monitor::new(&world.config("site"));
    eventually("it was acknowledged", async || {
        let depth = monitor.queue_depth(&queue).await.unwrap();
        (depth.messages, depth.consumers) == (0, 0)
    })
    .await;
    assert!(monitor.queue_depth("site.P01.missing").await.is_err());
    assert!(
        monitor.queue_depth(&queue).await.is_ok(),
        "asks again after a failure"
    );
}

async fn what_cannot_be_kept_is_not_confirmed(world: &World) {
    let tasks = Tasks::new();
    let publisher = Publisher::start(&world.config("mp"), &tasks).await.unwrap();
    let send = async |queue: &str, body| publisher.publish(queue, body, Headers::default()).await;
    let one = Bytes::from_static(b"x");
    let missing = send("site.P01.state.99", one.clone()).await;
    assert!(
        matches!(missing, Err(Error::Unroutable { .. })),
        "{missing:?}"
    );
    let long = send("site.P01.state.0", vec![0; MAX_BODY + 1].into()).await;
    assert!(matches!(long, Err(Error::TooLarge { .. })), "{long:?}");
    send("site.P01.state.1", one).await.unwrap();
    assert!(tasks.stop(PATIENCE).await.is_empty());
    let stopped = send("site.P01.state.1", Bytes::new()).await;
    assert!(matches!(stopped, Err(Error::Unavailable(_))), "{stopped:?}");
}

async fn the_exchange_leads_to_the_shard(world: &World) {
    let tasks = Tasks::new();
    // Connects by itself, a moment later.
    let publisher = Publisher::start_disconnected(&world.config("mp"), &tasks).unwrap();
    let monitor = Monitor::new(&world.config("site"));
    let depth = async |queue| monitor.queue_depth(queue).await.unwrap().messages;
    let exchange = topology::state_exchange("P01");
    let send = async |key: &str| {
        let body = Bytes::from_static(b"x");
        publisher
            .publish_to(&exchange, key, body, Headers::default())
            .await
    };
    eventually("it connects", async || publisher.is_connected()).await;
    let before = depth("site.P01.state.1").await;
    let urgent = depth("site.P01.state.urgent").await;
    assert!(matches!(send("2").await, Err(Error::Unroutable { .. })));
    send(topology::URGENT).await.unwrap();
    eventually("it is there", async || {
        depth("site.P01.state.urgent").await == urgent + 1
    })
    .await;
    assert_eq!(depth("site.P01.state.1").await, before);
    assert!(tasks.stop(PATIENCE).await.is_empty());
}

async fn a_failed_batch_comes_again(world: &World) {
    let tasks = Tasks::new();
    let (attempts, done) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (count, finished) = (Arc::clone(&attempts), Arc::clone(&done));
    // The message that the last story left in the queue.
    consume(
        &world.config("site"),
        "site.P01.state.1",
        Batch::default(),
        &tasks,
        move |batch| {
            let attempt = count.fetch_add(1, Ordering::SeqCst);
            let finished = Arc::clone(&finished);
            async move {
                assert_eq!(batch.len(), 1);
                assert!(attempt != 0, "the first time the handler panics");
                if attempt == 1 {
                    return Err("the second time it fails");
                }
                finished.store(true, Ordering::SeqCst);
                Ok(())
            }
        },
    )
    .await
    .unwrap();
    eventually("the handler succeeds", async || done.load(Ordering::SeqCst)).await;
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
    assert!(tasks.stop(PATIENCE).await.is_empty());
}

async fn a_queue_that_is_gone_is_made_again(world: &World) {
    let tasks = Tasks::new();
    let at = world.config("site");
    let declare: Declare = Arc::new(move || {
        let config = at.clone();
        Box::pin(async move { topology::declare_states(&config, "P01", 2).await })
    });
    let seen = Arc::new(AtomicUsize::new(0));
    let sink = Arc::clone(&seen);
    let handler = move |batch: Vec<_>| {
        sink.fetch_add(batch.len(), Ordering::SeqCst);
        async { Ok::<(), Error>(()) }
    };
    let (config, queue) = (world.config("site"), "site.P01.state.1");
    let batch = Batch::default();
    consume_declared(&config, queue, batch, &tasks, declare, handler)
        .await
        .unwrap();
    let words = ["delete_queue", "--vhost", VHOST, queue];
    let words = words.map(std::ffi::OsStr::new);
    tokio::task::block_in_place(|| world.rabbit.ctl(&words)).unwrap();
    let publisher = Publisher::start(&world.config("mp"), &tasks).await.unwrap();
    eventually("a message arrives again", async || {
        let body = Bytes::from_static(b"again");
        // Until it is there, nobody would have it.
        let _ = publisher.publish(queue, body, Headers::default()).await;
        seen.load(Ordering::SeqCst) > 0
    })
    .await;
    assert!(tasks.stop(PATIENCE).await.is_empty());
}

async fn nothing_that_was_confirmed_is_lost_when_the_broker_is_killed(world: &mut World) {
    const MESSAGES: u32 = 3_000;
    let tasks = Tasks::new();
    let publisher = Publisher::start(&world.config("mp"), &tasks).await.unwrap();
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let sink = Arc::clone(&seen);
    consume(
        &world.config("site"),
        "site.P01.state.0",
        Batch::default(),
        &tasks,
        move |batch| {
            let numbers = batch
                .iter()
                .map(|it| u32::from_be_bytes(it.body.as_ref().try_into().unwrap()));
            sink.lock().unwrap().extend(numbers);
            async { Ok::<(), Error>(()) }
        },
    )
    .await
    .unwrap();

    let next = Arc::new(AtomicUsize::new(0));
    let confirmed = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    for _ in 0..64 {
        let (publisher, next) = (publisher.clone(), Arc::clone(&next));
        let (confirmed, refused) = (Arc::clone(&confirmed), Arc::clone(&refused));
        tasks.spawn("sender", async move {
            loop {
                let number = u32::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap();
                if number >= MESSAGES {
                    return;
                }
                let body = Bytes::copy_from_slice(&number.to_be_bytes());
                while let Err(error) = publisher
                    .publish("site.P01.state.0", body.clone(), Headers::default())
                    .await
                {
                    assert!(!matches!(error, Error::Unroutable { .. }), "{error}");
                    refused.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                confirmed.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    eventually("some are confirmed", async || {
        confirmed.load(Ordering::SeqCst) > 200
    })
    .await;
    tokio::task::block_in_place(|| {
        world.rabbit.kill_9().unwrap();
        world.rabbit.restart().unwrap();
    });
    let all = MESSAGES as usize;
    eventually("all are confirmed", async || {
        confirmed.load(Ordering::SeqCst) == all
    })
    .await;
    assert!(
        refused.load(Ordering::SeqCst) > 0,
        "the kill came after everything was done"
    );
    eventually("all arrive", async || seen.lock().unwrap().len() == all).await;
    assert!(tasks.stop(PATIENCE).await.is_empty());
    tokio::task::block_in_place(|| world.rabbit.stop().unwrap());
}
