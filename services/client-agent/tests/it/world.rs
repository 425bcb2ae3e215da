//! What most tests need: a site, one enrolled client over a pretend machine, a catalog in which
//! `bash` and `zsh` are updated, and a deployment of both.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client_agent::enrol::{Enrolment, enrol};
use client_agent::provider::Provider;
use client_agent::provider::simulated::{Script, Simulated};
use client_agent::{Agent, Options};
use muster_domain::{ClientId, DeploymentId};
use muster_proto::catalog::{GetScanMetadataResponse, ScanLeaf, ScanSuite, ScanUpdate};
use muster_proto::convert::{to_duration, to_timestamp};
use muster_proto::policy::{
    ClientSettings, Deployment, Policy, PolicyFile, PolicyUpdate, Verbosity,
};
use sha2::{Digest, Sha256};

use crate::site::Site;

/// Numbers of the two updates.
pub(crate) const BASH: u32 = 7;
pub(crate) const ZSH: u32 = 9;
/// The content of both packages' files.
pub(crate) const OLD: &str = "1.0-1";
pub(crate) const NEW: &str = "1.1-1";

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) site: Site,
    pub(crate) machine: Arc<Simulated>,
    pub(crate) client: ClientId,
    pub(crate) deployment: DeploymentId,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::start(dir.path()).await;
        site.known().tokens.insert("token".into(), None);
        site.known().catalog = catalog();
        let machine = Arc::new(machine());
        let client = enrol(
            &dir.path().join("client"),
            &machine.machine(),
            &enrolment(&site),
        )
        .await
        .unwrap();
        let world = Self {
            dir,
            site,
            machine,
            client,
            deployment: DeploymentId::generate(),
        };
        world.deploy(-10, Some(-5));
        world
    }

    /// Opens the client, as its process does when it starts.
    pub(crate) fn agent(&self) -> Agent {
        self.agent_with(Options::default())
    }

    pub(crate) fn agent_with(&self, options: Options) -> Agent {
        let machine: Arc<Simulated> = Arc::clone(&self.machine);
        Agent::open(&self.dir.path().join("client"), machine, options).unwrap()
    }

    /// Deploys both updates; times are seconds from now.
    pub(crate) fn deploy(&self, available: i64, deadline: Option<i64>) {
        self.site
            .set_policy(self.client, self.policy(available, deadline));
    }

    pub(crate) fn policy(&self, available: i64, deadline: Option<i64>) -> Policy {
        let now = jiff::Timestamp::now();
        let at = |seconds| Some(to_timestamp(now + jiff::SignedDuration::from_secs(seconds)));
        let update = |update_no, package: &str| PolicyUpdate {
            update_no,
            max_run_time_minutes: 60,
            files: vec![PolicyFile {
                package: package.into(),
                version: NEW.into(),
                architecture: "amd64".into(),
                sha256: Sha256::digest(package).to_vec().into(),
                size: package.len() as u64,
                suite: 0,
            }],
            ..Default::default()
        };
        Policy {
            settings: Some(ClientSettings {
                policy_poll_interval: Some(to_duration(Duration::from_secs(1))),
                report_interval: Some(to_duration(Duration::from_secs(1))),
                scan_jitter: Some(to_duration(Duration::ZERO)),
                installs_allowed: true,
                ..Default::default()
            }),
            deployments: vec![Deployment {
                deployment_id: self.deployment.as_bytes().to_vec().into(),
                name: "November".into(),
                available_at: at(available),
                deadline_at: deadline.and_then(at),
                update_numbers: vec![BASH, ZSH],
                verbosity: Verbosity::All.into(),
                ..Default::default()
            }],
            updates: vec![update(BASH, "bash"), update(ZSH, "zsh")],
            ..Default::default()
        }
    }
}

pub(crate) fn enrolment(site: &Site) -> Enrolment {
    Enrolment {
        management_point: site.management_point().to_owned(),
        ca: site.ca.path().to_owned(),
        token: "token".into(),
    }
}

pub(crate) fn machine() -> Simulated {
    let packages = ["bash", "zsh", "dash"].map(|name| (name.to_owned(), OLD.to_owned()));
    Simulated::new(Script::default(), packages)
}

pub(crate) fn update(update_no: u32, package: &str, version: &str) -> ScanUpdate {
    ScanUpdate {
        update_no,
        revision: 1,
        source_package: package.into(),
        version: version.into(),
        leaves: vec![ScanLeaf {
            package: package.into(),
            ..Default::default()
        }],
        max_run_time_minutes: 60,
        ..Default::default()
    }
}

fn catalog() -> GetScanMetadataResponse {
    GetScanMetadataResponse {
        generation: 1,
        updates: vec![
            update(BASH, "bash", NEW),
            update(ZSH, "zsh", NEW),
            update(11, "dash", OLD),
        ],
        suites: vec![ScanSuite {
            codename: "bookworm-security".into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
