//! B3 `enforcement_wave`: a deployment of five updates goes over the fleet, 35 changes of state
//! for each client, one report each. How many changes per second become visible in time; how long
//! it takes from a change to the answer that shows it, beside a bare hop through the broker and a
//! bare commit; and what becomes of four times as many changes as the site can take.

mod agents;
mod limit;
mod probes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use load_tests::figures::Figures;
use load_tests::fleet::{Fleet, Member, Random, SHARDS, Sent, messages};
use load_tests::ground::{Ground, Place, SITE};
use load_tests::relay::Relay;
use load_tests::scrape::Metrics;
use muster_local::Service;
use muster_proto::report::GetEnforcementRequest;
use muster_proto::report::report_service_client::ReportServiceClient;
use muster_runtime::grpc::Channel;
use uuid::Uuid;

use crate::Size;
use agents::{Played, Said, Schedule, UPDATES, Wave};
use limit::Traffic;
use probes::{Probe, Seen, visible};

const CONNECTIONS: usize = 4;
const PROBES: usize = 24;
/// Probes per second.
const PROBED: f64 = 25.0;
/// Later than this is too late: above it a rate is beyond the capacity.
const IN_TIME: f64 = 2_000.0;
/// Where the search for the capacity begins, of what is recorded when there is always more.
const FROM: f64 = 0.95;
const STEP: f64 = 0.85;
/// The overload: so many times as many clients, each with as many changes as at the capacity. Had
/// the same clients more to say each, they would say it in fewer reports per change.
const OVERLOAD: usize = 4;

/// How long the parts of a run take.
#[derive(Debug, Clone, Copy)]
struct Times {
    saturated: Duration,
    search: Duration,
    half: Duration,
    overload: Duration,
}

impl Times {
    fn of(case: &str) -> Self {
        let seconds = |[saturated, search, half, overload]: [u64; 4]| Self {
            saturated: Duration::from_secs(saturated),
            search: Duration::from_secs(search),
            half: Duration::from_secs(half),
            overload: Duration::from_secs(overload),
        };
        match case {
            "full" => seconds([8, 8, 10, 30]),
            _ => seconds([4, 4, 5, 8]),
        }
    }
}

/// A run.
struct Run {
    ground: Ground,
    wave: Wave,
    probes: Vec<Probe>,
    relay: Arc<Relay>,
    reports: ReportServiceClient<Channel>,
    random: Random,
    times: Times,
}

pub(crate) async fn run(size: Size, place: &Place) -> Result<()> {
    let mut figures = Figures::new("enforcement_wave", size.case);
    let mut run = Run::new(size, place).await?;
    let capacity = match size.capacity {
        Some(given) => given,
        None => run.capacity(&figures).await?,
    };
    // Rows are there, files warm, and pages written since the checkpoint, as they are mostly.
    run.at(capacity / 2.0, run.times.search, 0).await?;
    run.ground.checkpoint()?;
    run.at(capacity / 2.0, run.times.search, 0).await?;
    run.half_load(capacity, size.pairs, &mut figures).await?;
    run.deadline(capacity, &figures).await?;
    run.overload(capacity, &mut figures).await?;
    run.compare(&mut figures).await?;
    let memory = run.ground.memory();
    figures.plain("peak_memory_mib_site_server", memory.site_server);
    figures.plain("peak_memory_mib_management_point", memory.management_point);
    run.ground.stop().await?;
    figures.end()
}

impl Run {
    /// A fleet that has reported its compliance, and a deployment for it.
    async fn new(size: Size, place: &Place) -> Result<Self> {
        let mut ground = Ground::start(place, Vec::new()).await?;
        let all = size.clients * OVERLOAD;
        let mut fleet = Fleet::new(all + PROBES, size.states, size.seed).members;
        ground.enrol(&fleet).await?;
        let full = |member: &mut Member| -> Sent {
            let report = member.full();
            member.sent(report)
        };
        let sent: Vec<Sent> = fleet.iter_mut().map(full).collect();
        ground.publish(messages(&sent)).await?;
        ground.wait_for(sent.len() as u64).await?;
        ground.drained().await?;
        let mut deployments = Vec::new();
        for _ in 0..=PROBES {
            deployments.push(deploy(&ground).await?);
        }
        let deployment = deployments.pop().context("there is no deployment")?;
        let probe = |(member, deployment)| Probe {
            member,
            deployment,
            said: Said::default(),
        };
        let probes = fleet.split_off(all).into_iter();
        let probes = probes.zip(deployments).map(probe).collect();
        let relay = Arc::new(ground.relay(CONNECTIONS)?);
        let reports = ReportServiceClient::new(ground.administrator()?);
        let (seed, to) = (size.seed ^ 5, Arc::clone(&relay));
        let wave = Wave::new(fleet, size.clients, deployment, to, seed);
        Ok(Self {
            ground,
            wave,
            probes,
            relay,
            reports,
            random: Random::new(size.seed ^ 6),
            times: Times::of(size.case),
        })
    }

    /// Changes recorded per second when there is always more to record; then the largest rate at
    /// which 99 in 100 changes are visible in time.
    async fn capacity(&mut self, figures: &Figures) -> Result<f64> {
        let schedule = Schedule {
            rate: 60_000.0,
            time: self.times.saturated,
            at_once: 0,
        };
        let before = self.recorded().await?;
        let begin = Instant::now();
        self.wave.run(schedule).await?;
        let recorded = self.recorded().await? - before;
        let most = recorded.states / begin.elapsed().as_secs_f64();
        figures.plain(
            "saturated_states_per_report",
            recorded.states / recorded.reports.max(1.0),
        );
        figures.plain("recorded_changes_per_second_when_saturated", most);
        self.settle().await?;
        // One change at a time is dearer than what comes together in a report of a client that waits.
        let mut rate = most * FROM;
        for _ in 0..12 {
            let (played, seen) = self.at(rate, self.times.search, 0).await?;
            let late = quantile(&visible(&seen), 0.99);
            figures.plain(&format!("p99_ms_at_{rate:.0}_per_second"), late);
            let keeps_up = played.settled_after < Duration::from_millis(1_500);
            if late <= IN_TIME && keeps_up && played.put_off == 0 {
                break;
            }
            rate *= STEP;
        }
        figures.plain("capacity_changes_per_second", rate);
        Ok(rate)
    }

    /// Half of the capacity, in turn with the limit: as many messages and commits as that makes.
    async fn half_load(
        &mut self,
        capacity: f64,
        pairs: usize,
        figures: &mut Figures,
    ) -> Result<()> {
        let broker = self.ground.peer_broker()?;
        let (rate, time) = (capacity / 2.0, self.times.half);
        let mut ours = Vec::new();
        let mut limit = limit::Times::default();
        let mut traffic = None;
        for pair in 0..pairs {
            // The first pair begins with the subject, which says what the limit sends.
            if let (1, Some(traffic)) = (pair % 2, traffic) {
                let (ground, random) = (&self.ground, &mut self.random);
                limit.extend(limit::measure(ground, &broker, traffic, time, random).await?);
            }
            let before = self.counted()?;
            let used = self.ground.usage();
            let (_, seen) = self.at(rate, time, 0).await?;
            let used = self.ground.usage() - used;
            let made = self.counted()?.since(&before, time);
            if pair == 0 {
                for (part, seconds) in used.parts() {
                    figures.plain(
                        &format!("processors_at_half_load_{part}"),
                        seconds / time.as_secs_f64(),
                    );
                }
                figures.plain("half_load_messages_per_second", made.messages);
                figures.plain("half_load_bytes_per_message", count(made.bytes as u64));
                figures.plain("half_load_commits_per_second", made.commits);
            }
            ours.extend(seen);
            if pair % 2 == 0 {
                let (ground, random) = (&self.ground, &mut self.random);
                limit.extend(limit::measure(ground, &broker, made, time, random).await?);
            }
            traffic = Some(made);
        }
        figures.plain("half_load_changes_per_second", rate);
        let accepted = |seen: &Seen| seen.accepted.as_secs_f64() * 1e3;
        let accepted: Vec<f64> = ours.iter().map(accepted).collect();
        let looks: u64 = ours.iter().map(|seen| u64::from(seen.looks)).sum();
        figures.plain("half_load_p50_ms_accepted", quantile(&accepted, 0.5));
        figures.plain("half_load_p99_ms_accepted", quantile(&accepted, 0.99));
        figures.plain("half_load_looks", count(looks) / count(ours.len() as u64));
        let ours = visible(&ours);
        figures.plain("half_load_p50_ms_visible", quantile(&ours, 0.5));
        figures.plain("half_load_p90_ms_visible", quantile(&ours, 0.9));
        figures.plain("limit_p50_ms_hop", quantile(&limit.hops, 0.5));
        figures.plain("limit_p50_ms_commit", quantile(&limit.commits, 0.5));
        figures.plain("limit_p99_ms_hop", quantile(&limit.hops, 0.99));
        figures.plain("limit_p99_ms_commit", quantile(&limit.commits, 0.99));
        let limit = quantile(&limit.hops, 0.99) + quantile(&limit.commits, 0.99);
        figures.at_most(
            "half_load_p99_ms_visible",
            quantile(&ours, 0.99),
            limit,
            3.0,
        );
        Ok(())
    }

    /// What the services have counted so far.
    fn counted(&self) -> Result<Counted> {
        Ok(Counted {
            management_point: self.ground.metrics(Service::ManagementPoint)?,
            site_server: self.ground.metrics(Service::SiteServer)?,
            bytes: self.relay.outcomes().bytes,
        })
    }

    /// Half of the capacity, and a third of the clients at the same moment.
    async fn deadline(&mut self, capacity: f64, figures: &Figures) -> Result<()> {
        let (played, seen) = self.at(capacity / 2.0, self.times.half, 35).await?;
        figures.plain("deadline_p99_ms_visible", quantile(&visible(&seen), 0.99));
        figures.plain("deadline_calls_put_off", count(played.put_off));
        Ok(())
    }

    /// Four times what the site can take, from four times as many clients.
    async fn overload(&mut self, capacity: f64, figures: &mut Figures) -> Result<()> {
        let clients = self.wave.taking_part;
        self.wave.taking_part = self.wave.agents.len();
        let schedule = Schedule {
            rate: capacity * count(OVERLOAD as u64),
            time: self.times.overload,
            at_once: 0,
        };
        let before = self.recorded().await?;
        let outcomes = self.relay.outcomes();
        let used = self.ground.usage();
        let (depths, stop) = self.depths()?;
        let begin = Instant::now();
        let played = self.wave.run(schedule).await?;
        let took = begin.elapsed().as_secs_f64();
        let recorded = self.recorded().await? - before;
        let put_off = self.relay.outcomes().put_off - outcomes.put_off;
        let away = self.relay.outcomes().away - outcomes.away;
        for (part, seconds) in (self.ground.usage() - used).parts() {
            figures.plain(&format!("processors_in_overload_{part}"), seconds / took);
        }
        figures.plain("overload_offered_per_second", count(played.changes) / took);
        figures.plain(
            "overload_states_per_report",
            recorded.states / recorded.reports.max(1.0),
        );
        figures.at_least(
            "overload_goodput_per_second",
            recorded.states / took,
            capacity,
            0.9,
        );
        figures.at_least("overload_calls_put_off", count(put_off), 1.0, 1.0);
        figures.plain("overload_calls_without_an_answer", count(away));
        let recovery = Instant::now();
        self.settle().await?;
        figures.plain(
            "overload_recovery_seconds",
            recovery.elapsed().as_secs_f64(),
        );
        stop.send_replace(true);
        let deepest = depths.await??;
        let bound =
            f64::from(u32::try_from(muster_rabbitmq::topology::MAX_MESSAGES).unwrap_or(u32::MAX));
        // A quorum queue may pass its bound by what was under way when it was reached.
        figures.at_most("overload_deepest_queue_messages", deepest, bound, 1.05);
        self.wave.taking_part = clients;
        let (_, seen) = self.at(capacity / 2.0, self.times.search, 0).await?;
        figures.plain(
            "after_overload_p99_ms_visible",
            quantile(&visible(&seen), 0.99),
        );
        Ok(())
    }

    /// Every row, every counter and the report beside what the clients say.
    async fn compare(&mut self, figures: &mut Figures) -> Result<()> {
        const DEPLOYMENT: &str = "
            SELECT s.client_no, 0, s.enforcement, s.error_code, s.serial FROM deployment_states s
            JOIN deployments USING (deployment_no) WHERE deployment_id = $1
            UNION ALL
            SELECT s.client_no, s.update_no, s.state, s.error_code, s.serial
            FROM update_enforcement_states s
            JOIN deployments USING (deployment_no) WHERE deployment_id = $1";
        const COUNTERS: &str = "
            SELECT state::int4, clients FROM deployment_counters
            JOIN deployments USING (deployment_no) WHERE deployment_id = $1 AND topic = 301";
        let db = self.ground.pool.get().await?;
        let mut model = std::collections::HashMap::new();
        let mut counts = std::collections::BTreeMap::<i32, i32>::new();
        for (client_no, agent) in (1_i32..).zip(&self.wave.agents) {
            for (number, said) in (0_i32..).zip(&agent.says) {
                if said.serial > 0 {
                    let row = (
                        i16::from(said.state),
                        said.error_code,
                        said.serial.cast_signed(),
                    );
                    model.insert((client_no, number), row);
                }
            }
            if agent.says[0].serial > 0 {
                *counts.entry(agent.says[0].state.into()).or_default() += 1;
            }
        }
        let said = model.len();
        let mut wrong = 0;
        for row in db.query(DEPLOYMENT, &[&self.wave.deployment]).await? {
            let held = (row.get(2), row.get(3), row.get(4));
            wrong += u64::from(model.remove(&(row.get(0), row.get(1))) != Some(held));
        }
        figures.plain("states_compared", count(said as u64));
        figures.zero("states_lost_or_wrong", wrong + model.len() as u64);
        let held: std::collections::BTreeMap<i32, i32> = db
            .query(COUNTERS, &[&self.wave.deployment])
            .await?
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        figures.zero("counters_not_as_the_model", u64::from(held != counts));
        let request = GetEnforcementRequest {
            deployment: self.wave.deployment.to_string(),
            page_size: 1,
            ..Default::default()
        };
        let answer = self.reports.get_enforcement(request).await?.into_inner();
        let shown: std::collections::BTreeMap<i32, i32> = answer
            .states
            .iter()
            .filter(|it| it.state != 0)
            .map(|it| (it.state, it.clients.cast_signed()))
            .collect();
        figures.zero(
            "reported_counts_not_as_the_model",
            u64::from(shown != counts),
        );
        let quarantined = db.query_one("SELECT count(*) FROM quarantine", &[]).await?;
        figures.zero(
            "reports_in_quarantine",
            quarantined.get::<_, i64>(0).unsigned_abs(),
        );
        Ok(())
    }

    /// A schedule with probes in it, to its end and until all is recorded.
    async fn at(
        &mut self,
        rate: f64,
        time: Duration,
        at_once: usize,
    ) -> Result<(Played, Vec<Seen>)> {
        let schedule = Schedule {
            rate,
            time,
            at_once,
        };
        let Self {
            wave,
            probes,
            relay,
            reports,
            random,
            ..
        } = self;
        let watched = probes::watch(probes, relay, reports, PROBED, time, random);
        let (played, seen) = tokio::try_join!(wave.play(schedule), watched)?;
        self.settle().await?;
        Ok((played, seen))
    }

    /// Until all that clients have to say is accepted and recorded.
    async fn settle(&mut self) -> Result<()> {
        let nothing = Schedule {
            rate: 1e-6,
            time: Duration::ZERO,
            at_once: 0,
        };
        self.wave.play(nothing).await?;
        self.ground.drained().await
    }

    /// What was recorded so far.
    async fn recorded(&self) -> Result<Recorded> {
        let db = self.ground.pool.get().await?;
        let row = db
            .query_one("SELECT reports, states FROM recorded_totals", &[])
            .await?;
        let number = |column| count(row.get::<_, i64>(column).unsigned_abs());
        Ok(Recorded {
            reports: number("reports"),
            states: number("states"),
        })
    }

    /// Watches the depth of the queues until told to stop; the deepest that one of them was.
    fn depths(
        &self,
    ) -> Result<(
        tokio::task::JoinHandle<Result<f64>>,
        tokio::sync::watch::Sender<bool>,
    )> {
        let monitor = muster_rabbitmq::Monitor::new(&self.ground.broker());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        #[allow(clippy::disallowed_methods)] // its handle is awaited
        let watching = tokio::spawn(async move {
            let mut deepest = 0;
            while !*stopped.borrow() {
                for queue in muster_rabbitmq::topology::state_queues(SITE, SHARDS) {
                    deepest = deepest.max(monitor.queue_depth(&queue).await?.messages);
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(f64::from(deepest))
        });
        Ok((watching, stop))
    }
}

/// How much the site has recorded.
#[derive(Debug, Clone, Copy)]
struct Recorded {
    reports: f64,
    states: f64,
}

impl std::ops::Sub for Recorded {
    type Output = Self;

    fn sub(self, from: Self) -> Self {
        Self {
            reports: self.reports - from.reports,
            states: self.states - from.states,
        }
    }
}

/// What services and generator have counted at one moment.
struct Counted {
    management_point: Metrics,
    site_server: Metrics,
    bytes: u64,
}

impl Counted {
    /// What was sent to the broker and committed since then, per second of this time.
    fn since(&self, before: &Self, time: Duration) -> Traffic {
        const MESSAGES: &str = "muster_amqp_published_total{outcome=\"confirmed\"}";
        const COMMITS: &str = "muster_state_batch_seconds_count";
        let messages = self
            .management_point
            .since(&before.management_point, MESSAGES);
        let commits = self.site_server.since(&before.site_server, COMMITS);
        let bytes = count(self.bytes - before.bytes) / messages.max(1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bytes = bytes as usize;
        Traffic {
            messages: messages / time.as_secs_f64(),
            bytes,
            commits: commits / time.as_secs_f64(),
        }
    }
}

/// A deployment to all systems, due now; its id.
async fn deploy(ground: &Ground) -> Result<Uuid> {
    const DEPLOY: &str = "
        INSERT INTO deployments (deployment_id, name, collection_no, available_at, deadline_at,
                                 suppress_restart)
        SELECT $1::uuid, 'wave ' || $1::uuid, min(collection_no), now(), now(), true FROM collections
        RETURNING deployment_no";
    const UPDATES_SQL: &str = "
        INSERT INTO deployment_updates SELECT $1, generate_series(1, $2::int4)";
    let db = ground.pool.get().await?;
    let id = Uuid::new_v4();
    let number: i32 = db.query_one(DEPLOY, &[&id]).await?.get(0);
    db.execute(UPDATES_SQL, &[&number, &i32::try_from(UPDATES)?])
        .await?;
    Ok(id)
}

pub(crate) fn quantile(times: &[f64], part: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    let at = (times.len() as f64 * part) as usize;
    let last = times.len().saturating_sub(1);
    times.get(at.min(last)).copied().unwrap_or(f64::NAN)
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn count(count: u64) -> f64 {
    count as f64
}
