//! What tests against real servers need: a database and a virtual host of their own, the site's
//! certificates, and waiting without guessing.
//!
//! The servers are shared by a whole test run: `cargo xtask test` starts them. Who runs one test
//! again and again keeps `cargo xtask test-services` open in another terminal and exports the
//! line it prints. Start reading at [`postgres::database`] and [`rabbit::vhost`].

mod ca;
mod eventually;
pub mod hierarchy;
pub mod postgres;
pub mod rabbit;

use std::path::{Path, PathBuf};

use muster_local::instances::{self, Instances};

pub use ca::TestCa;
pub use eventually::{PATIENCE, eventually, eventually_for};

/// The servers of this test run.
///
/// # Panics
/// When there are none, saying how to start them.
#[must_use]
pub fn instances() -> Instances {
    let Some(file) = std::env::var_os(instances::VARIABLE) else {
        panic!(
            "this test needs PostgreSQL and RabbitMQ: run `cargo xtask test`, or \
             `cargo xtask test-services` in another terminal and export the line it prints"
        );
    };
    Instances::read(Path::new(&file)).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A TCP port of 127.0.0.1 that nobody listened on a moment ago. Better: listen on port 0.
///
/// # Panics
/// When all are taken.
#[must_use]
pub fn free_port() -> u16 {
    muster_local::ports::free_port().unwrap_or_else(|error| panic!("{error:#}"))
}

/// The folder with the built programs of all services, for tests that start them as processes.
///
/// # Panics
/// When the test was not started by `cargo xtask test` and the programs are not beside it.
#[must_use]
pub fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("MUSTER_PROGRAMS") {
        return PathBuf::from(folder);
    }
    // target/<profile>/deps/<test>: the programs are one folder up.
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test
        .parent()
        .and_then(Path::parent)
        .map(Path::to_path_buf)
        .unwrap_or_default();
    assert!(
        folder.join("site-server").is_file(),
        "the programs are not built: run `cargo xtask test`, or `cargo build --workspace` first"
    );
    folder
}
