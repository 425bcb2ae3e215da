//! Reports against the rows: whatever happened before, each answer is what counting the rows one
//! by one gives.

pub(crate) mod compliance;
mod failures;
mod sites;
mod trend;
pub(crate) mod truth;
mod views;

use muster_domain::states::Detection;
use muster_proto::report as pb;
use muster_proto::report::report_service_client::ReportServiceClient;
use muster_runtime::grpc::Channel;
use muster_testkit::eventually;

use crate::roles::update;
use crate::site::{Client, Site};

/// A small generator, so that a run can be repeated from its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Seeded by the clock.
    pub(crate) fn new() -> Self {
        Self(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Updates of generation 1 and 2.
pub(crate) const UPDATES: u32 = 12;

pub(super) async fn site_with_catalog() -> Site {
    with_catalog(Site::start().await).await
}

pub(super) async fn with_catalog(site: Site) -> Site {
    give_catalog(&site).await;
    site
}

pub(super) async fn give_catalog(site: &Site) {
    let catalog = (1..=UPDATES).map(|no| muster_proto::catalog::Update {
        generation: if no <= 8 { 1 } else { 2 },
        ..update(no, &format!("source-{no}"), &["leaf"])
    });
    site.others.world.lock().unwrap().catalog = catalog.collect();
    eventually(async || site.count("SELECT generation FROM catalog_state").await == 2).await;
}

pub(super) fn reports(site: &Site) -> ReportServiceClient<Channel> {
    ReportServiceClient::new(site.channel("administrator"))
}

/// A client that reports at random.
pub(super) struct Reporter {
    pub(super) client: Client,
    pub(super) serial: u64,
    generation: u64,
}

impl Reporter {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            serial: 0,
            generation: 0,
        }
    }

    /// The first report is a FULL one; the catalog only gets younger.
    pub(super) async fn report(&mut self, site: &Site, random: &mut Random) {
        let first = self.serial + 1;
        self.serial += 1 + random.below(2);
        self.generation = self.generation.max(1 + random.below(2));
        let chosen = (1..=UPDATES + 1).filter(|_| random.below(3) == 0);
        let chosen: Vec<u32> = chosen.collect();
        let state =
            |no: u32, random: &mut Random| (no, Detection::from_id(random.below(4) as u8).unwrap());
        let mut states: Vec<(u32, Detection)> =
            chosen.into_iter().map(|no| state(no, random)).collect();
        let full = first == 1 || random.below(5) == 0;
        let mut report = if full {
            states.retain(|(_, state)| *state != Detection::NotRequired);
            self.client.full(self.serial, &states)
        } else {
            self.client.delta(first, self.serial, &states)
        };
        report.catalog_generation = self.generation;
        site.report(&[report]).await;
    }

    pub(super) async fn recorded(&self, site: &Site) {
        eventually(async || site.contiguous(&self.client).await as u64 == self.serial).await;
    }
}

/// Reads a list of clients to its end, in small pages; returns host names and what the pages say
/// of the whole.
pub(super) async fn all_pages(
    mut fetch: impl AsyncFnMut(String) -> (Vec<pb::ReportedClient>, String, u32),
) -> (Vec<String>, u32) {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (clients, next, total) = fetch(token).await;
        assert!(clients.len() <= 3);
        all.extend(clients.into_iter().map(|client| client.host_name));
        if next.is_empty() {
            return (all, total);
        }
        token = next;
    }
}
