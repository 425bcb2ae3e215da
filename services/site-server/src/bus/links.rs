//! `link.<PARENT>.<CHILD>.up` and `.down`: the queues through which neighbouring sites speak, both at
//! the parent's broker. Here they are made and consumed; what is said is in `app/links/`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use muster_domain::SiteCode;
use muster_rabbitmq::{
    Batch, Config, Declare, Delivery, Pem, Publisher, Secrets, consume, consume_declared, topology,
};
use muster_runtime::status::chain;
use muster_runtime::{Backoff, Tasks};
use tokio::sync::{mpsc, oneshot};

use crate::app::links::session::{self, Incoming, Way};
use crate::app::links::{self, Neighbour};
use crate::app::{Error, Site, join_site};

/// How often it is looked which neighbours there are, beside when somebody says so.
const LOOK: Duration = Duration::from_secs(60);
/// After that failed.
const RETRY: Duration = Duration::from_secs(1);
/// How long a link that ends may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that are handed over together: batches are large.
const MESSAGES: u16 = 8;

/// The links that run, with what each was started for.
type Running = BTreeMap<SiteCode, (Neighbour, Timestamp, Tasks)>;

/// Keeps a link to each neighbour until `tasks` stop.
pub(crate) fn start(site: &Arc<Site>, tasks: &Tasks) {
    let (site, stop) = (Arc::clone(site), tasks.token());
    tasks.spawn("links", async move {
        let mut running = Running::new();
        let changed = links::changes(&site);
        loop {
            let wait = match follow(&site, &mut running).await {
                Ok(()) => LOOK.min(site.config.links.cycle * 2),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "cannot see which neighbours there are");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        for (_, _, tasks) in running.into_values() {
            tasks.stop(PATIENCE).await;
        }
    });
}

/// Starts links to new neighbours and ends those to who is one no more.
async fn follow(site: &Arc<Site>, running: &mut Running) -> Result<(), Error> {
    let joined = links::neighbours(site).await?;
    let mut gone = std::mem::take(running);
    for (neighbour, at) in joined {
        let same = gone.remove(&neighbour.code);
        let same = match same {
            Some(link) if (link.0, link.1) == (neighbour, at) => Some(link),
            Some((.., tasks)) => {
                tasks.stop(PATIENCE).await;
                None
            }
            None => None,
        };
        let link = same.unwrap_or_else(|| {
            let tasks = Tasks::new();
            tracing::info!(peer.code = %neighbour.code, parent = neighbour.is_parent, "link starts");
            tasks.spawn("link", keep(Arc::clone(site), neighbour, tasks.clone()));
            (neighbour, at, tasks)
        });
        running.insert(neighbour.code, link);
    }
    for (code, (.., tasks)) in gone {
        tracing::info!(peer.code = %code, "link ends");
        tasks.stop(PATIENCE).await;
    }
    Ok(())
}

/// Connects one link, however long that takes.
async fn keep(site: Arc<Site>, peer: Neighbour, tasks: Tasks) {
    let stop = tasks.token();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
    loop {
        match connect(&site, peer, &tasks).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(
                    peer.code = %peer.code,
                    error = %chain(&error),
                    "cannot connect the link yet"
                );
                links::cannot_connect(&site, peer, &error);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = backoff.wait() => {}
        }
    }
}

async fn connect(site: &Arc<Site>, peer: Neighbour, tasks: &Tasks) -> Result<(), Error> {
    let own = site.config.site_code;
    let (config, exchange, queue) = if peer.is_parent {
        let (up, down) = names(peer.code, own);
        (parent_broker(site, peer.code).await?, up, down)
    } else {
        let (up, down) = names(own, peer.code);
        declare(site, peer.code).await?;
        let config = Config {
            prefetch: MESSAGES * 2,
            ..site.config.rabbitmq.clone()
        };
        (config, down, up)
    };
    let (sender, inbox) = mpsc::channel(1);
    let handler = move |deliveries| hand_over(sender.clone(), deliveries);
    let batch = Batch {
        max: usize::from(MESSAGES),
        ..Batch::default()
    };
    // First what can fail: the session begins with somebody who listens.
    if peer.is_parent {
        consume(&config, &queue, batch, tasks, handler).await?;
    } else {
        let site = Arc::clone(site);
        let again: Declare = Arc::new(move || {
            let site = Arc::clone(&site);
            Box::pin(async move { declare(&site, peer.code).await })
        });
        consume_declared(&config, &queue, batch, tasks, again, handler).await?;
    }
    let way = Way {
        publisher: Publisher::start_disconnected(&config, tasks)?,
        exchange,
    };
    let stop = tasks.token();
    tasks.spawn(
        "link-session",
        session::run(Arc::clone(site), peer, way, inbox, stop),
    );
    Ok(())
}

/// Makes what a link to a child needs at our broker. It is there, but at the first time and for a
/// broker that has lost everything.
async fn declare(site: &Site, child: SiteCode) -> Result<(), muster_rabbitmq::Error> {
    let own = site.config.site_code;
    topology::declare_link(&site.config.rabbitmq, own.as_str(), child.as_str()).await?;
    if let Err(error) = join_site::make_user_again(site, child).await {
        let error = chain(&error);
        tracing::warn!(peer.code = %child, error, "cannot see to the child's broker user");
    }
    Ok(())
}

fn names(parent: SiteCode, child: SiteCode) -> (String, String) {
    (
        topology::link_up(parent.as_str(), child.as_str()),
        topology::link_down(parent.as_str(), child.as_str()),
    )
}

async fn parent_broker(site: &Site, parent: SiteCode) -> Result<Config, Error> {
    let broker = links::broker(site, parent).await?;
    let broker = broker.ok_or(Error::Internal(
        "nothing says how the parent's broker is reached",
    ))?;
    let tls = broker.uri.starts_with("amqps:").then_some(Pem {
        ca: broker.ca,
        cert: broker.certificate,
        key: broker.key,
    });
    let secrets = Secrets {
        password: broker.password,
        tls,
    };
    Ok(Config {
        prefetch: MESSAGES * 2,
        ..Config::with_secrets(broker.uri, broker.username, secrets)
    })
}

/// Gives messages to the session and waits until it is done with them.
async fn hand_over(
    session: mpsc::Sender<Incoming>,
    deliveries: Vec<Delivery>,
) -> Result<(), Error> {
    let ended = Error::Internal("the link has ended");
    let (done, result) = oneshot::channel();
    let incoming = Incoming { deliveries, done };
    if session.send(incoming).await.is_err() {
        return Err(ended);
    }
    result.await.unwrap_or(Err(ended))
}
