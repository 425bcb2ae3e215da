//! A fleet: each client is the real agent with an identity, a state folder and connections of its
//! own; only the machine below it is pretended. A fleet that is started again goes on with what
//! its clients had on disk.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client_agent::enrol::{Enrolment, enrol};
use client_agent::provider::Provider;
use client_agent::provider::simulated::{Script, Simulated};
use client_agent::store::Durability;
use client_agent::{Agent, Error, Options, daemon, tls_files};
use load_tests::machines::Packages;
use muster_runtime::{Backoff, Tasks};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Enrolments at once.
const ENROLMENTS: usize = 8;
/// How long one client tries to enrol.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often progress is printed.
const PROGRESS: Duration = Duration::from_secs(5);
/// How long clients may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// `muster-load clients`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// One-use tokens, one per line.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The site's certificate authority, a PEM file.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Address of a management point.
    #[arg(long, value_name = "URL")]
    management_point: String,
    /// The folder for the clients' own folders.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where all random choices come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Updates whose installation fails, in percent.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    fail_percent: f64,
    /// Lines "name version": what the machines choose from.
    #[arg(long, value_name = "FILE")]
    packages_from: Option<PathBuf>,
    /// Stop after this time (such as "10m") instead of at SIGTERM.
    #[arg(long, value_name = "TIME", value_parser = crate::duration)]
    duration: Option<Duration>,
    /// Let each commit of each client wait for the disk, as a real machine's does.
    #[arg(long)]
    durable: bool,
}

/// What is shared by all clients of the fleet.
struct Fleet {
    arguments: Arguments,
    packages: Packages,
    tokens: Vec<String>,
    enrolments: Semaphore,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    enrolled: AtomicU32,
    refused: AtomicU32,
    blocked: AtomicU32,
    failed: AtomicU32,
}

/// Runs the fleet to its end; the answer is its summary, one line of JSON.
pub(crate) async fn run(arguments: Arguments) -> Result<String> {
    let packages = match &arguments.packages_from {
        Some(file) => Packages::read(file)?,
        None => Packages::built_in(),
    };
    let tokens = std::fs::read_to_string(&arguments.token_file)
        .with_context(|| format!("cannot read {}", arguments.token_file.display()))?;
    let tokens: Vec<String> = tokens
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect();
    let count = arguments.count;
    if tokens.len() < count as usize {
        bail!("{} tokens are not enough for {count} clients", tokens.len());
    }
    let started = Instant::now();
    let fleet = Arc::new(Fleet {
        packages,
        tokens,
        enrolments: Semaphore::new(ENROLMENTS),
        counts: Counts::default(),
        arguments,
    });
    let tasks = Tasks::new();
    for number in 0..count {
        let (fleet, token) = (Arc::clone(&fleet), tasks.token());
        tasks.spawn("simulated-client", async move {
            client(&fleet, number, token).await
        });
    }
    let watched = Arc::clone(&fleet);
    tasks.every("progress", PROGRESS, None, move || {
        let (fleet, seconds) = (Arc::clone(&watched), started.elapsed().as_secs());
        async move { say(&fleet, seconds) }
    });
    match fleet.arguments.duration {
        Some(duration) => tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = muster_runtime::shutdown_signal() => {}
        },
        None => muster_runtime::shutdown_signal().await,
    }
    tasks.stop(STOP).await;
    let counts = &fleet.counts;
    let summary = json!({
        "clients": count,
        "enrolled": counts.enrolled.load(Ordering::Relaxed),
        "refused": counts.refused.load(Ordering::Relaxed),
        "blocked": counts.blocked.load(Ordering::Relaxed),
        "failed": counts.failed.load(Ordering::Relaxed),
        "seconds": started.elapsed().as_secs(),
    });
    Ok(summary.to_string())
}

fn say(fleet: &Fleet, seconds: u64) {
    let enrolled = fleet.counts.enrolled.load(Ordering::Relaxed);
    let refused = fleet.counts.refused.load(Ordering::Relaxed);
    let _ = writeln!(
        std::io::stderr().lock(),
        "{seconds:>5} s: {enrolled} of {} clients enrolled, {refused} refused",
        fleet.arguments.count
    );
}

/// One client from enrolment to the end of the fleet.
async fn client(fleet: &Fleet, number: u32, token: CancellationToken) -> Result<(), Error> {
    let dir = fleet.arguments.state.join(format!("client-{number:05}"));
    let script = Script {
        seed: fleet.arguments.seed.rotate_left(32) ^ u64::from(number),
        host_name: format!("sim-{number:05}"),
        install_failures: fleet.arguments.fail_percent / 100.0,
        install_takes: (Duration::from_millis(50), Duration::from_millis(500)),
        file: Some(dir.join("machine.json")),
        ..Script::default()
    };
    let packages = fleet.packages.of_machine(fleet.arguments.seed, number);
    let machine = Arc::new(Simulated::new(script, packages));
    let done = tokio::select! {
        () = token.cancelled() => return Ok(()),
        done = ensure_enrolled(fleet, number, &dir, machine.as_ref()) => done,
    };
    if let Err(error) = done {
        fleet.counts.refused.fetch_add(1, Ordering::Relaxed);
        return Err(error);
    }
    let durability = if fleet.arguments.durable {
        Durability::Full
    } else {
        Durability::Relaxed
    };
    let options = Options {
        durability,
        ..Options::default()
    };
    let agent = Agent::open(&dir, machine, options)?;
    fleet.counts.enrolled.fetch_add(1, Ordering::Relaxed);
    let ended = daemon::run(&agent, token).await;
    if let Err(error) = &ended {
        let blocked = error.reason().as_deref() == Some("CLIENT_BLOCKED");
        let counter = if blocked {
            &fleet.counts.blocked
        } else {
            &fleet.counts.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    ended
}

async fn ensure_enrolled(
    fleet: &Fleet,
    number: u32,
    dir: &std::path::Path,
    machine: &Simulated,
) -> Result<(), Error> {
    if tls_files(dir).cert.exists() {
        return Ok(());
    }
    let with = Enrolment {
        management_point: fleet.arguments.management_point.clone(),
        ca: fleet.arguments.ca.clone(),
        token: fleet
            .tokens
            .get(number as usize)
            .cloned()
            .unwrap_or_default(),
    };
    let machine = machine.machine();
    let deadline = Instant::now() + PATIENCE;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let permit = fleet.enrolments.acquire().await;
        let result = enrol(dir, &machine, &with).await;
        drop(permit);
        let Err(error) = result else { return Ok(()) };
        let retry = matches!(
            error.code(),
            Some(tonic::Code::Unavailable | tonic::Code::ResourceExhausted | tonic::Code::Unknown)
        );
        if !retry || Instant::now() >= deadline {
            return Err(error);
        }
        backoff.wait().await;
    }
}
