//! The conversation with one neighbour. Messages, the clock and what is dirty drive it, one after the
//! other; what it knows is what the database has, and after any doubt it is read from there again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use muster_link::{Health, Inbound, Mark, Outbound, Sweep, Taken, Verdict};
use muster_proto::link as pb;
use muster_rabbitmq::{Delivery, Headers, Publisher};
use muster_runtime::faults;
use muster_runtime::status::chain;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::number::{self, InHand};
use super::status::{self, LinkStatus};
use super::{Error, Neighbour, Site, clients, digests, objects, receive, sites};
use crate::domain::link::{self, Kind};
use crate::domain::link_progress::Progress;
use crate::domain::link_quota::Quota;
use crate::domain::report::Refused;
use crate::store::links;

/// From the first change to its batch: what changes meanwhile goes together.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two batches of clients: a batch costs a transaction at either end, whatever is in it. Who changes
/// alone does not wait for this, and a batch that is large enough goes at once.
const GATHER: Duration = Duration::from_secs(1);
/// After something failed.
const RETRY: Duration = Duration::from_secs(1);
/// Refusals that end when everything is said again: the peer lost who clients are.
const LACKS: [&str; 2] = ["UNKNOWN_CLIENT", "CLIENT_NUMBERS_DIFFER"];
/// Batches that are sent again in one go.
const AGAIN: i64 = 8;

/// Messages of the neighbour; the answer says whether they may be forgotten.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) done: oneshot::Sender<Result<(), Error>>,
}

/// How the neighbour is reached.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) publisher: Publisher,
    pub(crate) exchange: String,
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Session {
    site: Arc<Site>,
    peer: Neighbour,
    way: Way,
    public_key: Vec<u8>,
    /// The version of the protocol that the peer greeted us in.
    protocol: u32,
    outbound: Outbound,
    inbound: Inbound,
    /// The nonce that is not answered yet.
    greeting: Option<u64>,
    /// The peer said something in this cycle.
    heard: bool,
    /// What was acknowledged when this cycle began.
    acked_before: Mark,
    health: Health,
    status: LinkStatus,
    in_hand: InHand,
    /// Which buckets are compared next, and whether it is time to.
    sweep: Sweep,
    compare: bool,
    /// The last batch of ours to which the peer said what differs.
    repaired: Mark,
    number_at: Option<Instant>,
    /// When our state is read and the peer greeted again.
    again_at: Option<Instant>,
    /// What we send and what we take in: how fast that goes since `began`.
    sending: Progress,
    receiving: Progress,
    began: Instant,
    /// The batches that are not acknowledged.
    under_way: BTreeMap<u64, links::UnderWay>,
    /// What waits for a batch, as it was when this cycle began.
    waiting: links::Waiting,
    /// How much of our time the peer may take, and until when it has had enough.
    quota: Quota,
    spent_at: Instant,
    rests_until: Option<Instant>,
}

/// Speaks with a neighbour until `stop`.
pub(crate) async fn run(
    site: Arc<Site>,
    peer: Neighbour,
    way: Way,
    mut inbox: mpsc::Receiver<Incoming>,
    stop: CancellationToken,
) {
    let mut woken = site.links.woken.subscribe();
    let mut cycle = tokio::time::interval(site.config.links.cycle);
    cycle.set_missed_tick_behavior(MissedTickBehavior::Delay);
    cycle.tick().await;
    let mut session = Session::new(site, peer, way);
    let begin = async {
        while let Err(error) = session.begin().await {
            session.failed("begin", &error);
            sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = begin => {}
        () = stop.cancelled() => return,
    }
    loop {
        let later = Instant::now() + site_pause(&session);
        tokio::select! {
            () = stop.cancelled() => break,
            Some(incoming) = inbox.recv(), if session.rests_until.is_none() => {
                let started = Instant::now();
                let result = session.receive(&incoming.deliveries).await;
                if let Err(error) = &result {
                    session.failed("receive", error);
                }
                // Nobody waits any more when the connection was lost: it comes again.
                let _ = incoming.done.send(result);
                session.spent(started.elapsed());
            }
            () = sleep_until(session.rests_until.unwrap_or(later)), if session.rests_until.is_some() => {
                session.rests_until = None;
            }
            Ok(()) = woken.changed() => session.number_soon(),
            _ = cycle.tick() => {
                if let Err(error) = session.cycle().await {
                    session.failed("look", &error);
                }
            }
            () = sleep_until(session.number_at.unwrap_or(later)), if session.number_at.is_some() => {
                session.number_at = None;
                if let Err(error) = session.number().await {
                    session.failed("number", &error);
                }
            }
            () = sleep_until(session.again_at.unwrap_or(later)), if session.again_at.is_some() => {
                session.again_at = None;
                if let Err(error) = session.begin_again().await {
                    session.failed("begin again", &error);
                }
            }
        }
    }
    // Whoever speaks with the parent next finds in memory what is not in a batch.
    session.in_hand.put_back(&session.site);
}

fn site_pause(session: &Session) -> Duration {
    session.site.config.links.cycle
}

impl Session {
    fn new(site: Arc<Site>, peer: Neighbour, way: Way) -> Self {
        let config = &site.config.links;
        Self {
            quota: Quota::new(config.receive_share, config.receive_burst),
            spent_at: Instant::now(),
            rests_until: None,
            site,
            peer,
            way,
            public_key: Vec::new(),
            protocol: link::spoken(),
            outbound: Outbound::first(),
            inbound: Inbound::default(),
            greeting: None,
            heard: false,
            acked_before: Mark::default(),
            health: Health::default(),
            status: LinkStatus::new(peer),
            in_hand: InHand::default(),
            sweep: Sweep::default(),
            compare: false,
            repaired: Mark::default(),
            number_at: None,
            again_at: None,
            sending: Progress::default(),
            receiving: Progress::default(),
            began: Instant::now(),
            under_way: BTreeMap::new(),
            waiting: links::Waiting::default(),
        }
    }

    /// Taking in took so long. A peer that has had its share waits, and its queue fills up.
    fn spent(&mut self, busy: Duration) {
        let since = self.spent_at.elapsed();
        self.spent_at = Instant::now();
        if let Some(rest) = self.quota.spend(busy, since) {
            let code = self.peer.code.to_string();
            metrics::counter!("muster_link_rests_total", "peer" => code).increment(1);
            self.rests_until = Some(Instant::now() + rest);
        }
    }

    fn failed(&mut self, what: &'static str, error: &Error) {
        let peer = self.peer.code;
        tracing::warn!(peer.code = %peer, what, error = %chain(error), "link has to wait");
        self.again_at = Some(Instant::now() + RETRY);
    }

    /// Reads what the database has. A link that is new has everything to say.
    async fn load(&mut self) -> Result<(), Error> {
        let mut db = self.site.db().await?;
        let gone = || Error::Internal("the link is gone");
        let held = links::load(&db, self.peer.code).await?.ok_or_else(gone)?;
        if held.is_new {
            let tx = db.transaction().await?;
            self.site.still_active(&tx).await?;
            let marks = self.all_dirty(&tx).await?;
            tx.commit().await?;
            clients::note_unknown(&self.site, &marks);
        }
        self.public_key = held.public_key;
        self.protocol = held.protocol;
        self.outbound = held.outbound;
        self.inbound = held.inbound;
        self.under_way = held.under_way;
        self.waiting = links::waiting(&db, self.peer).await?;
        self.status.refusal = held.refusal;
        self.greeting = None;
        self.show();
        Ok(())
    }

    async fn all_dirty(
        &self,
        tx: &deadpool_postgres::Transaction<'_>,
    ) -> Result<Vec<crate::store::dirty_clients::Mark>, Error> {
        sites::all_dirty(tx, self.peer).await?;
        objects::all_dirty(tx, self.peer).await?;
        if self.peer.is_parent {
            crate::store::compliance::tell_needs_again(tx).await?;
            clients::mark_all(tx).await
        } else {
            Ok(Vec::new())
        }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        self.load().await?;
        // Only its greeting shows that our database went back.
        self.say(Kind::AskToGreet(pb::AskToGreet {})).await;
        self.greet(true).await
    }

    async fn begin_again(&mut self) -> Result<(), Error> {
        self.load().await?;
        self.greet(true).await
    }

    /// Sends a message; one that is lost is said again, as the peer's silence shows.
    async fn say(&mut self, kind: Kind) {
        let site = &self.site;
        let message = link::seal(
            &site.policy_key,
            site.config.site_code,
            self.peer.code,
            kind,
        );
        self.publish(message).await;
    }

    async fn publish(&mut self, message: Bytes) -> bool {
        let exchange = &self.way.exchange;
        let headers = Headers::current(1);
        self.count_bytes("out", message.len());
        match self
            .way
            .publisher
            .publish_to(exchange, "", message, headers)
            .await
        {
            Ok(()) => {
                self.status.problem = None;
                true
            }
            Err(error) => {
                self.status.problem = Some(status::problem(&error));
                tracing::debug!(peer.code = %self.peer.code, error = %chain(&error),
                                "message of a link not sent");
                let soon = Instant::now() + RETRY;
                self.again_at = Some(self.again_at.unwrap_or(soon));
                false
            }
        }
    }

    fn count_bytes(&self, direction: &'static str, bytes: usize) {
        let peer = self.peer.code.to_string();
        metrics::counter!("muster_link_bytes_total", "peer" => peer, "direction" => direction)
            .increment(bytes as u64);
    }

    /// Greets the peer, anew or with what it has not answered.
    async fn greet(&mut self, anew: bool) -> Result<(), Error> {
        let nonce = match self.greeting.filter(|_| !anew) {
            Some(nonce) => nonce,
            None => {
                let nonce = rand::random();
                self.outbound.greet(nonce);
                self.greeting = Some(nonce);
                nonce
            }
        };
        let lineage = links::lineage(&self.site.db().await?, self.site.config.site_code).await?;
        self.say(Kind::Greeting(pb::Greeting {
            nonce,
            lineage,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
        .await;
        Ok(())
    }

    /// Takes messages in. After `Ok` they are of no more use.
    async fn receive(&mut self, deliveries: &[Delivery]) -> Result<(), Error> {
        let mut acknowledge = false;
        for delivery in deliveries {
            let origin = format!(
                "queue {}, broker user {}",
                delivery.queue,
                delivery.user.as_deref().unwrap_or("nobody")
            );
            self.count_bytes("in", delivery.body.len());
            let own = self.site.config.site_code;
            let vouched = || Refused::new("UNKNOWN_SENDER", "the broker does not vouch for it");
            let opened = delivery.user.as_ref().ok_or_else(vouched).and_then(|_| {
                link::open(delivery.body.clone(), &self.public_key, self.peer.code, own)
            });
            let taken = match opened {
                Ok((protocol, kind)) => self.take(protocol, kind).await?,
                Err(refused) => Err(refused),
            };
            match taken {
                Ok(is_batch) => acknowledge |= is_batch,
                Err(refused) => {
                    receive::keep_aside(&self.site, &origin, &refused, &delivery.body).await?;
                }
            }
        }
        if acknowledge {
            faults::point("link.before_ack");
            let mark = Some(link::to_mark(self.inbound.mark()));
            self.say(Kind::Acknowledgement(pb::Acknowledgement { mark }))
                .await;
        }
        self.show();
        Ok(())
    }

    /// Takes one message in; whether a batch is to be acknowledged.
    async fn take(&mut self, protocol: u32, kind: Kind) -> Result<Result<bool, Refused>, Error> {
        self.heard = true;
        self.status.heard_at = Some(Timestamp::now());
        if let Kind::Refusal(refusal) = &kind {
            let word = crate::domain::names::cleaned(&refusal.reason, 64);
            let text = crate::domain::names::cleaned(&refusal.detail, 1_024);
            if LACKS.contains(&word.as_str()) && self.outbound.is_open() {
                let mut next = self.outbound.clone();
                let verdict = next.lacking();
                self.follow(next, verdict).await?;
            }
            return self
                .refused(&format!("{word}: {text}"))
                .await
                .map(|()| Ok(false));
        }
        if let Some(refused) = link::protocol_refusal(protocol) {
            self.refuse(&refused).await;
            return self.refused(&refused.to_string()).await.map(|()| Ok(false));
        }
        let refusal = self.status.refusal.as_deref();
        if refusal
            .is_some_and(|refusal| link::ends_refusal(refusal, &kind, self.site.config.site_code))
        {
            self.accepted().await?;
        }
        match kind {
            Kind::Greeting(greeting) => self.greeted(protocol, &greeting).await.map(|()| Ok(false)),
            Kind::Welcome(welcome) => match link::mark(welcome.mark.as_ref()) {
                Ok(mark) => self.welcomed(welcome.nonce, mark).await.map(|()| Ok(false)),
                Err(refused) => Ok(Err(refused)),
            },
            Kind::Acknowledgement(it) => match link::mark(it.mark.as_ref()) {
                Ok(mark) => {
                    let mut next = self.outbound.clone();
                    let verdict = next.acknowledged(mark);
                    self.follow(next, verdict).await.map(|()| Ok(false))
                }
                Err(refused) => Ok(Err(refused)),
            },
            Kind::Batch(batch) => self.apply(&batch).await,
            Kind::AskToGreet(_) => self.greet(true).await.map(|()| Ok(false)),
            Kind::Repair(it) => self.repair(&it).await.map(|()| Ok(false)),
            Kind::Refusal(_) => Ok(Ok(false)),
        }
    }

    async fn greeted(&mut self, protocol: u32, greeting: &pb::Greeting) -> Result<(), Error> {
        let own = self.site.config.site_code.to_string();
        if self.peer.is_parent && greeting.lineage.contains(&own) {
            let text = format!("{own} is above {} already", self.peer.code);
            let refused = Refused::new("LOOP", text);
            self.refuse(&refused).await;
            return self.refused(&refused.to_string()).await;
        }
        if self.protocol < protocol && self.protocol < link::spoken() {
            // What we said that it did not know then, it has neither kept nor told others.
            let mut next = self.outbound.clone();
            let verdict = next.learned();
            self.follow(next, verdict).await?;
        }
        let version = crate::domain::names::cleaned(&greeting.version, 64);
        let lineage: Vec<String> = greeting
            .lineage
            .iter()
            .take(64)
            .filter(|code| code.parse::<muster_domain::SiteCode>().is_ok())
            .cloned()
            .collect();
        let db = self.site.db().await?;
        links::greeted(&db, self.peer.code, protocol, &version, &lineage).await?;
        self.protocol = protocol;
        drop(db);
        let mark = Some(link::to_mark(self.inbound.mark()));
        let nonce = greeting.nonce;
        self.say(Kind::Welcome(pb::Welcome { nonce, mark })).await;
        Ok(())
    }

    async fn welcomed(&mut self, nonce: u64, mark: Mark) -> Result<(), Error> {
        if self.greeting != Some(nonce) {
            return Ok(());
        }
        let mut next = self.outbound.clone();
        let verdict = next.welcomed(nonce, mark);
        self.follow(next, verdict).await?;
        self.greeting = None;
        self.send_again().await
    }

    /// Does what a mark of the peer means.
    async fn follow(&mut self, next: Outbound, verdict: Verdict) -> Result<(), Error> {
        match verdict {
            Verdict::Nothing => {
                self.outbound = next;
                return Ok(());
            }
            Verdict::Forget(_) => {
                let mut db = self.site.db().await?;
                let tx = db.transaction().await?;
                self.site.still_active(&tx).await?;
                links::forget(&tx, self.peer.code, next.acked()).await?;
                tx.commit().await?;
                self.status.refusal = None;
                let rest = self.under_way.split_off(&(next.acked().seq + 1));
                let arrived = std::mem::replace(&mut self.under_way, rest);
                self.sending.done(arrived.values().map(|it| it.items).sum());
            }
            Verdict::StartAgain(reason) => {
                tracing::warn!(peer.code = %self.peer.code, ?reason, epoch = next.epoch(),
                               "everything is sent again");
                let code = self.peer.code.to_string();
                metrics::counter!("muster_link_starts_again_total", "peer" => code).increment(1);
                let mut db = self.site.db().await?;
                let tx = db.transaction().await?;
                self.site.still_active(&tx).await?;
                links::start_again(&tx, self.peer.code, next.acked()).await?;
                let marks = self.all_dirty(&tx).await?;
                tx.commit().await?;
                clients::note_unknown(&self.site, &marks);
                self.under_way.clear();
            }
        }
        self.outbound = next;
        self.number_soon();
        Ok(())
    }

    /// Sends what the peer's database does not have, and then goes on.
    async fn send_again(&mut self) -> Result<(), Error> {
        let mut after = self.outbound.acked().seq;
        loop {
            let db = self.site.db().await?;
            let batches = links::batches_after(&db, self.peer.code, after, AGAIN).await?;
            drop(db);
            if batches.is_empty() {
                break;
            }
            for (seq, message) in batches {
                if !self.publish(message.into()).await {
                    return Ok(());
                }
                after = seq;
            }
        }
        self.number_soon();
        Ok(())
    }

    async fn apply(&mut self, batch: &pb::Batch) -> Result<Result<bool, Refused>, Error> {
        let head = match link::head(batch) {
            Ok(head) => head,
            Err(refused) => return Ok(Err(refused)),
        };
        let Taken::Next(mark) = self.inbound.take(&head, &batch.body) else {
            return Ok(Ok(true));
        };
        let held = self.inbound.mark();
        match receive::apply(&self.site, self.peer, batch, held, mark).await? {
            Ok(arrived) => {
                self.inbound.applied(mark);
                self.receiving.done(arrived.items as u64);
                self.status.applied_at(arrived.numbered_at);
                let differing = arrived.differing;
                if !differing.is_empty() {
                    // One that is lost is asked for again after the next comparison.
                    self.say(Kind::Repair(pb::Repair {
                        epoch: mark.epoch,
                        seq: mark.seq,
                        client_buckets: differing.clients,
                        object_buckets: differing.objects,
                    }))
                    .await;
                }
                Ok(Ok(true))
            }
            Err(refused) => {
                self.refuse(&refused).await;
                Ok(Err(refused))
            }
        }
    }

    /// The peer found something else in some buckets; to each of our batches it says so once.
    async fn repair(&mut self, repair: &pb::Repair) -> Result<(), Error> {
        let of_ours = repair.epoch == self.outbound.epoch()
            && (self.repaired.seq < repair.seq || self.repaired.epoch < repair.epoch)
            && repair.seq < self.outbound.next_seq();
        if !of_ours {
            return Ok(());
        }
        let (marks, first) = digests::repair(&self.site, self.peer, repair).await?;
        clients::note_unknown(&self.site, &marks);
        self.repaired.epoch = repair.epoch;
        self.repaired.seq = repair.seq;
        if let Some(bucket) = first {
            self.sweep.back_to(bucket);
        }
        self.number_soon();
        Ok(())
    }

    async fn refuse(&mut self, refused: &Refused) {
        self.say(Kind::Refusal(pb::Refusal {
            reason: refused.reason.to_owned(),
            detail: refused.detail.clone(),
        }))
        .await;
    }

    async fn refused(&mut self, refusal: &str) -> Result<(), Error> {
        tracing::error!(peer.code = %self.peer.code, refusal, "the link is refused");
        links::refuse(&self.site.db().await?, self.peer.code, refusal).await?;
        self.status.refusal = Some(refusal.to_owned());
        Ok(())
    }

    /// What was refused is put right.
    async fn accepted(&mut self) -> Result<(), Error> {
        tracing::info!(peer.code = %self.peer.code, "the link is refused no more");
        links::accept(&self.site.db().await?, self.peer.code).await?;
        self.status.refusal = None;
        Ok(())
    }

    fn number_soon(&mut self) {
        let now = Instant::now();
        let at = self.number_at.unwrap_or(now + PAUSE);
        let waits = !number::is_enough(&self.site, self.peer, &self.in_hand);
        self.number_at = Some(if waits { at } else { at.min(now) });
    }

    /// Puts what is dirty into batches, as long as there is room.
    async fn number(&mut self) -> Result<(), Error> {
        let (site, peer) = (Arc::clone(&self.site), self.peer);
        let mut made = None;
        if self.compare && self.outbound.has_room() {
            self.compare = false;
            made = self.compare().await?;
        }
        if made.is_none() {
            made = number::number(&site, peer, &self.outbound, &mut self.in_hand).await?;
        }
        if let Some(made) = made {
            self.outbound = made.outbound;
            let seq = self.outbound.next_seq() - 1;
            let batch = links::UnderWay {
                items: made.items as u64,
                numbered_at: Timestamp::now(),
            };
            self.under_way.insert(seq, batch);
            self.publish(made.message).await;
            // Others want their turn; what is left follows at once, and what comes now gathers.
            let gathers = made.is_all && !number::is_enough(&site, peer, &self.in_hand);
            let wait = if gathers { GATHER } else { Duration::ZERO };
            self.number_at = Some(Instant::now() + wait);
        } else if self.outbound.has_room() {
            self.waiting = links::Waiting::default();
        }
        self.show();
        Ok(())
    }

    /// Sums up the next buckets. Nothing is numbered between that and their batch: only we do.
    async fn compare(&mut self) -> Result<Option<number::Made>, Error> {
        let mut sweep = self.sweep.clone();
        let buckets = sweep.step(digests::step(&self.site));
        let started = Instant::now();
        let Some(sums) = digests::sent(&self.site, self.peer, &buckets).await? else {
            return Ok(None);
        };
        metrics::histogram!("muster_link_digest_seconds").record(started.elapsed().as_secs_f64());
        let made = number::compare(&self.site, self.peer, &self.outbound, sums).await?;
        if made.is_some() {
            self.sweep = sweep;
        }
        Ok(made)
    }

    /// A cycle is over.
    async fn cycle(&mut self) -> Result<(), Error> {
        if let Some(state) = self.health.cycle(self.heard) {
            self.status.health = state;
            self.status.since = Timestamp::now();
            tracing::warn!(peer.code = %self.peer.code, ?state, "the link is another");
        }
        let heard = std::mem::replace(&mut self.heard, false);
        let acked = self.outbound.acked();
        let stuck = self.outbound.is_waiting() && acked == self.acked_before;
        self.acked_before = acked;
        let db = self.site.db().await?;
        self.waiting = links::waiting(&db, self.peer).await?;
        if heard {
            links::heard(&db, self.peer.code).await?;
        }
        drop(db);
        if stuck && self.outbound.is_open() {
            self.greet(true).await?;
        } else if !heard || !self.outbound.is_open() {
            self.greet(false).await?;
        }
        if self.peer.is_parent {
            clients::adopt_orphans(&self.site, |mark| self.in_hand.has_mark(mark)).await?;
            number::compact(&self.site).await?;
        }
        // Of what only one of two versions knows, both hold something else until they are of one.
        let alike = self.protocol == link::spoken();
        self.compare = self.outbound.is_open() && alike && digests::compares();
        self.number_soon();
        self.show();
        Ok(())
    }

    /// Tells people.
    fn show(&mut self) {
        let changed = if self.peer.is_parent {
            clients::size(&self.site).0 + self.in_hand.clients()
        } else {
            0
        };
        let under_way: u64 = self.under_way.values().map(|it| it.items).sum();
        let behind = changed as u64 + under_way + self.waiting.things;
        let now = self.began.elapsed();
        self.sending.look(now, behind);
        self.receiving.look(now, 0);
        self.status.missed = self.health.missed();
        self.status.sent_seq = self.outbound.next_seq() - 1;
        self.status.clients_changed = changed as u64;
        let batch = self.under_way.values().next().map(|it| it.numbered_at);
        let oldest = self.waiting.oldest.into_iter().chain(batch).min();
        self.status.sends(behind, &self.sending, oldest);
        self.status.receive_rate = self.receiving.rate();
        status::keep(&self.site, &self.status);
    }
}
