//! B4 `hierarchy_fan_in`: what clients of the lowest site say climbs to the central one, over two
//! levels and over three. What a site above costs beside the site that takes the reports in, what
//! is on the link beside the same states as rows, how late the central site knows, and how fast
//! it catches up with what was said while it was down.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use load_tests::figures::{Figures, rate};
use load_tests::fleet::{Fleet, Member, Random, Sent};
use load_tests::ground::Place;
use load_tests::model;
use load_tests::relay::Relay;
use load_tests::tree::Tree;
use load_tests::usage::Usage;
use muster_local::Service;
use uuid::Uuid;

use crate::Size;
use crate::patch_tuesday::{Losses, changes, wave};

const TWO: &[&str] = &["CEN", "P01"];
const THREE: &[&str] = &["CEN", "P01", "S11"];
/// Connections to the management point, and calls under way on all of them.
const CONNECTIONS: usize = 4;
const UNDER_WAY: usize = 512;
/// The load that is steady: so many clients, each once in a cycle.
const STEADY_CLIENTS: f64 = 20_000.0;
const CYCLE: f64 = 900.0;
/// How often it is looked what the central site knows.
const LOOK: Duration = Duration::from_millis(10);
/// How long it is looked what sites use that have nothing to do.
const IDLE: Duration = Duration::from_secs(10);
/// A state as a row: what a site would have to send of each state to say the same, and what COPY in
/// its binary form makes of it: client_id uuid, update_no int4, state int2, epoch int4, serial
/// int8, reported_at timestamptz; four bytes of length before each, two bytes before all.
const ROW: usize = 2 + 6 * 4 + 16 + 4 + 2 + 4 + 8 + 8;
/// The row that B1 compares with: client_no int4, update_no int4, state int2, serial int8.
const NARROW_ROW: usize = 2 + 4 * 4 + 4 + 4 + 2 + 8;

/// What some states have cost on their way up.
#[derive(Debug, Clone, Default)]
struct Cost {
    states: usize,
    /// The central site first.
    sites: Vec<Usage>,
    /// Bytes of the messages between the lowest site and its parent, both ways, and batches.
    link: f64,
    batches: f64,
    took: Duration,
}

impl Cost {
    fn add(&mut self, more: Self) {
        self.states += more.states;
        self.link += more.link;
        self.batches += more.batches;
        self.took += more.took;
        self.sites.resize(more.sites.len(), Usage::default());
        for (sum, more) in self.sites.iter_mut().zip(more.sites) {
            *sum += more;
        }
    }

    fn total(&self) -> f64 {
        self.sites.iter().map(Usage::sum).sum()
    }

    fn per_state(&self, seconds: f64) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let states = self.states as f64;
        seconds * 1e6 / states
    }

    /// What each part of each site used for a state.
    fn show(&self, figures: &Figures, load: &str) {
        for (level, usage) in self.sites.iter().enumerate() {
            for (part, seconds) in usage.parts().into_iter().take(4) {
                let metric = format!("{load}_cpu_microseconds_per_state_level_{level}_{part}");
                figures.plain(&metric, self.per_state(seconds));
            }
        }
        let states = format!("{load}_states_per_second_to_the_central_site");
        figures.plain(&states, rate(self.states, self.took));
        #[allow(clippy::cast_precision_loss)]
        let in_a_batch = self.states as f64 / self.batches;
        figures.plain(&format!("{load}_states_per_batch_of_the_link"), in_a_batch);
    }
}

/// A hierarchy with its clients.
struct Run {
    tree: Tree,
    fleet: Fleet,
    relay: Relay,
    random: Random,
    /// Reports that the lowest site records.
    reports: u64,
}

/// What both hierarchies go through.
struct Costs {
    rollout: Cost,
    changes: Cost,
    /// The rows of the last wave, as COPY makes them.
    rows: Vec<u8>,
}

pub(crate) async fn run(size: Size, place: &Place) -> Result<()> {
    let mut figures = Figures::new("hierarchy_fan_in", size.case);
    let (mut run, two) = Run::new(size, place, TWO).await?;
    two.rollout.show(&figures, "rollout");
    two.changes.show(&figures, "patch_tuesday");
    for (load, cost) in [("rollout", &two.rollout), ("patch_tuesday", &two.changes)] {
        let (parent, child) = (cost.sites[0].sum(), cost.sites[1].sum());
        let metric = format!("{load}_cpu_of_the_parent_beside_the_child");
        figures.at_most(&metric, cost.per_state(parent), cost.per_state(child), 0.5);
        #[allow(clippy::cast_precision_loss)]
        let states = cost.states as f64;
        #[allow(clippy::cast_precision_loss)]
        let (row, narrow) = (ROW as f64, NARROW_ROW as f64);
        let bytes = cost.link / states;
        figures.at_most(&format!("{load}_bytes_per_state"), bytes, row, 0.02);
        figures.beside(&format!("{load}_bytes_per_state_narrow"), bytes, narrow);
    }
    #[allow(clippy::cast_precision_loss)]
    {
        let rows = two.rows.len() as f64;
        let small = gzip(&two.rows)?;
        figures.beside("rows_of_a_wave_with_gzip", small, rows);
    }
    run.idle(&mut figures).await;
    run.steady(size, &mut figures).await?;
    run.catch_up(&mut figures).await?;
    run.compare(&mut figures).await?;
    run.tree.stop().await?;

    let (run, three) = Run::new(size, place, THREE).await?;
    three.rollout.show(&figures, "rollout_three_levels");
    three.changes.show(&figures, "patch_tuesday_three_levels");
    for (load, two, three) in [
        ("rollout", &two.rollout, &three.rollout),
        ("patch_tuesday", &two.changes, &three.changes),
    ] {
        // Beside the other two sites in the same run: another run has another machine.
        let middle = three.sites[1].sum();
        let others = three.total() - middle;
        let metric = format!("{load}_cpu_that_a_third_level_adds");
        let (added, before) = (three.per_state(middle), three.per_state(others));
        figures.at_most(&metric, added, before, 0.1);
        let metric = format!("{load}_cpu_of_three_levels_beside_two");
        let (three, two) = (three.per_state(three.total()), two.per_state(two.total()));
        figures.beside(&metric, three, two);
    }
    run.compare(&mut figures).await?;
    run.tree.stop().await?;
    figures.end()
}

impl Run {
    /// Starts sites; everybody reports everything, and then, wave after wave, what changed.
    async fn new(size: Size, place: &Place, codes: &[&str]) -> Result<(Self, Costs)> {
        let fleet = Fleet::new(size.clients, size.states, size.seed);
        let mut tree = Tree::start(place, codes).await?;
        tree.enrol(&fleet.members).await?;
        let relay = tree.relay(CONNECTIONS)?;
        let mut run = Self {
            tree,
            fleet,
            relay,
            random: Random::new(size.seed ^ 4),
            reports: 0,
        };
        let first = |member: &mut Member| {
            let report = member.full();
            member.sent(report)
        };
        let reports: Vec<Sent> = run.fleet.members.iter_mut().map(first).collect();
        let states = load_tests::fleet::cells(&run.fleet.members);
        let recorded = reports.len() as u64;
        let rollout = run.climb(&reports, states, recorded).await?;
        let (mut costs, mut rows) = (Cost::default(), Vec::new());
        for _ in 0..size.pairs {
            let wave = wave(&mut run.fleet.members, &mut run.random, Losses::None);
            rows = as_rows(&run.fleet.members, &wave.changes);
            let cost = run.climb(&wave.reports, wave.fresh, wave.recorded).await?;
            costs.add(cost);
        }
        let costs = Costs {
            rollout,
            changes: costs,
            rows,
        };
        Ok((run, costs))
    }

    /// Sends reports and waits until the central site has what they say.
    async fn climb(&mut self, reports: &[Sent], states: usize, recorded: u64) -> Result<Cost> {
        let (bytes, batches) = (self.on_the_link()?, self.batches()?);
        let (begin, used) = (Instant::now(), self.tree.usage());
        self.relay.send(reports, 1, UNDER_WAY).await?;
        self.reports += recorded;
        self.tree.recorded(self.reports).await?;
        self.tree.arrived().await?;
        let took = begin.elapsed();
        let now = self.tree.usage().into_iter();
        Ok(Cost {
            states,
            sites: now.zip(used).map(|(now, then)| now - then).collect(),
            link: self.on_the_link()? - bytes,
            batches: self.batches()? - batches,
            took,
        })
    }

    fn on_the_link(&self) -> Result<f64> {
        let lowest = self.tree.levels() - 1;
        Ok(self.tree.metrics(lowest)?.sum("muster_link_bytes_total{"))
    }

    fn batches(&self) -> Result<f64> {
        let lowest = self.tree.levels() - 1;
        Ok(self.tree.metrics(lowest)?.sum("muster_link_batches_total{"))
    }

    /// What sites use while nobody says anything: a part of every other figure, the larger the
    /// longer that took.
    async fn idle(&self, figures: &mut Figures) {
        let (begin, used) = (Instant::now(), self.tree.usage());
        tokio::time::sleep(IDLE).await;
        let seconds = begin.elapsed().as_secs_f64();
        for (level, (now, then)) in self.tree.usage().into_iter().zip(used).enumerate() {
            let metric = format!("idle_processors_level_{level}");
            figures.plain(&metric, (now - then).sum() / seconds);
        }
    }

    /// As many reports a second as 20,000 clients send in a cycle of 15 minutes, and how late the
    /// central site has each.
    async fn steady(&mut self, size: Size, figures: &mut Figures) -> Result<()> {
        let time = Duration::from_secs(if size.case == "full" { 120 } else { 20 });
        let per_second = STEADY_CLIENTS / CYCLE;
        let central = self.tree.pools[0].clone();
        let (bytes, used) = (self.on_the_link()?, self.tree.usage());
        let begin = Instant::now();
        let mut due = Duration::ZERO;
        let mut sent = 0;
        let mut waiting: Vec<(Uuid, i64, Instant)> = Vec::new();
        let mut late = Vec::new();
        while begin.elapsed() < time || !waiting.is_empty() {
            while due < time && begin.elapsed() >= due {
                let at = self.random.below(self.fleet.members.len());
                let member = &mut self.fleet.members[at];
                let changes = changes(member, &mut self.random);
                let report = member.delta(&changes);
                let report = member.sent(report);
                waiting.push((member.id, i64::try_from(member.serial)?, begin + due));
                sent += 1;
                due += self.random.pause(per_second);
                // One after the other: at this rate none waits for another.
                self.relay.deliver(vec![report.envelope()]).await?;
            }
            look(&central, &mut waiting, &mut late).await?;
            tokio::time::sleep(LOOK).await;
        }
        self.reports += sent;
        self.tree.arrived().await?;
        late.sort_by(f64::total_cmp);
        let at = |share: usize| late[(late.len() * share / 100).min(late.len() - 1)];
        figures.plain("steady_reports_per_second", per_second);
        figures.plain("steady_visible_ms_p50", at(50));
        figures.below("steady_visible_ms_p99", at(99), 5_000.0);
        let used: Vec<Usage> = self
            .tree
            .usage()
            .into_iter()
            .zip(used)
            .map(|(now, then)| now - then)
            .collect();
        let seconds = begin.elapsed().as_secs_f64();
        for (level, usage) in used.iter().enumerate() {
            let metric = format!("steady_processors_level_{level}");
            figures.plain(&metric, usage.sum() / seconds);
        }
        let reports = f64::from(u32::try_from(sent)?);
        let on_the_link = (self.on_the_link()? - bytes) / reports;
        figures.plain("steady_bytes_per_report", on_the_link);
        Ok(())
    }

    /// The central site server is down while everybody says what changed: what comes of a cycle of
    /// 15 minutes. Then it comes back.
    async fn catch_up(&mut self, figures: &mut Figures) -> Result<()> {
        self.tree.site_mut(0).terminate(Service::SiteServer)?;
        let wave = wave(&mut self.fleet.members, &mut self.random, Losses::None);
        self.relay.send(&wave.reports, 1, UNDER_WAY).await?;
        self.reports += wave.recorded;
        self.tree.recorded(self.reports).await?;
        let (site, begin) = (self.tree.site_mut(0), Instant::now());
        tokio::task::block_in_place(|| site.restart(Service::SiteServer))?;
        let ready = begin.elapsed();
        self.tree.arrived().await?;
        let took = begin.elapsed();
        let clients = wave.reports.len();
        figures.plain("catch_up_seconds_until_ready", ready.as_secs_f64());
        figures.plain("catch_up_states_per_second", rate(wave.fresh, took));
        let steady = STEADY_CLIENTS / CYCLE;
        // From the start of the process on.
        figures.at_least(
            "catch_up_clients_per_second",
            rate(clients, took),
            steady,
            10.0,
        );
        Ok(())
    }

    /// Every site beside brute force.
    async fn compare(&self, figures: &mut Figures) -> Result<()> {
        for level in 0..self.tree.levels() {
            let console = self.tree.administrator(level)?;
            let pool = &self.tree.pools[level];
            let wrong = model::compare_site(pool, console, &self.fleet.members).await?;
            let code = self.tree.site(level).code().to_owned();
            for (what, count) in [
                ("clients", wrong.clients),
                ("counters", wrong.counters),
                ("report_rows", wrong.reported),
                ("quarantined", wrong.quarantined),
            ] {
                let levels = self.tree.levels();
                figures.zero(&format!("wrong_{what}_at_{code}_of_{levels}"), count);
            }
        }
        Ok(())
    }
}

/// Takes out of `waiting` what a site has recorded.
async fn look(
    pool: &muster_postgres::Pool,
    waiting: &mut Vec<(Uuid, i64, Instant)>,
    late: &mut Vec<f64>,
) -> Result<()> {
    const SQL: &str = "
        SELECT c.client_id, s.contiguous_serial FROM clients c JOIN report_streams s USING (client_no)
        WHERE c.client_id = ANY ($1)";
    if waiting.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = waiting.iter().map(|(id, ..)| *id).collect();
    let db = pool.get().await?;
    let sql = db.prepare_cached(SQL).await?;
    let rows = db.query(&sql, &[&ids]).await?;
    let now = Instant::now();
    let held: std::collections::HashMap<Uuid, i64> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    waiting.retain(|(id, serial, due)| {
        let there = held.get(id).is_some_and(|held| held >= serial);
        if there {
            late.push(now.saturating_duration_since(*due).as_secs_f64() * 1e3);
        }
        !there
    });
    Ok(())
}

/// The rows of changes, as COPY in its binary form makes them.
fn as_rows(members: &[Member], changes: &[crate::limits::Change]) -> Vec<u8> {
    fn field(rows: &mut Vec<u8>, bytes: &[u8]) {
        rows.extend(u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
        rows.extend(bytes);
    }
    let mut rows = Vec::with_capacity(changes.len() * ROW);
    for change in changes {
        let at = usize::try_from(change.client_no - 1).unwrap_or(0);
        rows.extend(6_u16.to_be_bytes());
        field(&mut rows, members[at].id.as_bytes());
        field(&mut rows, &change.update_no.to_be_bytes());
        field(&mut rows, &change.state.to_be_bytes());
        field(&mut rows, &1_i32.to_be_bytes());
        field(&mut rows, &change.serial.to_be_bytes());
        // One commit's clients have one time.
        field(
            &mut rows,
            &(829_000_000_000_000 + i64::from(change.client_no / 64)).to_be_bytes(),
        );
    }
    rows
}

#[allow(clippy::cast_precision_loss)]
fn gzip(bytes: &[u8]) -> Result<f64> {
    use std::io::Write;
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    to.write_all(bytes)?;
    Ok(to.finish().context("cannot compress")?.len() as f64)
}
