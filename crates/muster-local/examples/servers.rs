//! Installs what is missing, starts both servers in a throwaway folder and stops them: what a
//! fresh machine goes through at its first `cargo xtask up`, without the build.
#![allow(clippy::print_stdout)] // an example talks to who runs it

use std::time::Duration;

use muster_local::instances::TestServers;
use muster_local::packages::{self, Install};
use muster_local::{Interrupt, State, state};

fn main() -> anyhow::Result<()> {
    let no_install = std::env::args().any(|it| it == "--no-install");
    let install = if no_install {
        Install::No
    } else {
        Install::Yes
    };
    let programs = packages::ensure(install, &|line| println!("{line}"))?;
    println!(
        "{} and RabbitMQ {}",
        programs.postgres_version, programs.rabbitmq_version
    );
    let root = std::env::temp_dir().join(format!("muster-example-{}", std::process::id()));
    let servers = TestServers::start(&State::open(&root, Interrupt::default())?, &programs)?;
    println!(
        "both answer; the broker's port is {}",
        servers.rabbit.amqp_port()
    );
    drop(servers);
    let removed = state::remove(&root, Duration::ZERO)?;
    println!("stopped, and removed {} folders", removed.folders.len());
    Ok(())
}
