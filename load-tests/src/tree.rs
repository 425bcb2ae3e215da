//! Sites one below the other, each with servers of its own: what benchmarks of a hierarchy stand
//! on. Clients are those of the lowest site, enrolled as in [`crate::ground`].

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_local::hierarchy::{self, Hierarchy, Member as Placed};
use muster_local::packages::{self, Install};
use muster_local::site::Plan;
use muster_local::{Interrupt, Service, Site, state};
use muster_postgres::Pool;
use muster_runtime::config::TlsConfig;
use muster_runtime::grpc::{Channel, ChannelOptions, channel};

use crate::fleet::Member;
use crate::ground::{self, Place};
use crate::relay::Relay;
use crate::scrape::Metrics;
use crate::usage::Usage;

/// How long something may take before a run is given up.
const PATIENCE: Duration = Duration::from_secs(900);
/// Clients that one mark stands for, when everybody is marked at the enrolment.
const AT_ONCE: i32 = 2_000;

/// Running sites.
pub struct Tree {
    /// Their databases, the central site's first.
    pub pools: Vec<Pool>,
    // An option only so that it can be taken for the end.
    hierarchy: Option<Hierarchy>,
    folder: PathBuf,
}

impl Tree {
    /// Starts sites with these codes, each the parent of the next one.
    ///
    /// # Errors
    /// When a server does not start, or a site is not taken in.
    pub async fn start(place: &Place, codes: &[&str]) -> Result<Self> {
        let (programs, folder) = (place.programs()?, place.state());
        let (at, tree) = (folder.clone(), hierarchy::Tree::chain(codes));
        let start = move || -> Result<Hierarchy> {
            let servers = packages::ensure(Install::No, &|_| {})?;
            let plan = |placed: &Placed| Plan {
                can_be_parent: true,
                code: placed.code.clone(),
                name: placed.name.clone(),
                programs: programs.clone(),
                templates: ground::workspace().join("deploy/config"),
                settings: Vec::new(),
            };
            let services = [Service::SiteServer, Service::ManagementPoint];
            let interrupt = Interrupt::default();
            Hierarchy::start(&at, &interrupt, &servers, tree, &services, &plan, &|_| {})
        };
        let hierarchy = tokio::task::spawn_blocking(start).await??;
        let mut pools = Vec::new();
        for (_, site) in &hierarchy.sites {
            pools.push(ground::database(site).await?);
        }
        Ok(Self {
            pools,
            hierarchy: Some(hierarchy),
            folder,
        })
    }

    /// How many sites there are.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.pools.len()
    }

    /// A site; the central one is the first.
    ///
    /// # Panics
    /// Never before [`Tree::stop`], for a level that there is.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn site(&self, level: usize) -> &Site {
        let hierarchy = self.hierarchy.as_ref().expect("taken only to stop");
        &hierarchy.sites[level].1
    }

    /// The same, to do something to it.
    ///
    /// # Panics
    /// As [`Tree::site`].
    #[allow(clippy::expect_used)]
    pub fn site_mut(&mut self, level: usize) -> &mut Site {
        let hierarchy = self.hierarchy.as_mut().expect("taken only to stop");
        &mut hierarchy.sites[level].1
    }

    /// Enrols all clients at the lowest site and waits until every site knows them.
    ///
    /// # Errors
    /// When a database refuses, or a site server does not come back.
    pub async fn enrol(&mut self, fleet: &[Member]) -> Result<()> {
        const MARK: &str = "
            INSERT INTO dirty_clients (client_nos)
            SELECT array_agg(client_no ORDER BY client_no) FROM clients
            GROUP BY client_no / $1 ORDER BY client_no / $1";
        const KNOWN: &str = "SELECT count(*) FROM clients";
        for level in (0..self.levels()).rev() {
            self.site_mut(level).terminate(Service::SiteServer)?;
            ground::fill_catalog(&self.pools[level]).await?;
        }
        let lowest = &self.pools[self.levels() - 1];
        ground::enrol(lowest, fleet).await?;
        lowest.get().await?.execute(MARK, &[&AT_ONCE]).await?;
        for level in 0..self.levels() {
            let site = self.site_mut(level);
            tokio::task::block_in_place(|| site.restart(Service::SiteServer))?;
        }
        let begin = Instant::now();
        loop {
            let db = self.pools[0].get().await?;
            let known: i64 = db.query_one(KNOWN, &[]).await?.get(0);
            drop(db);
            if usize::try_from(known)? == fleet.len() {
                return self.arrived().await;
            }
            ensure!(begin.elapsed() < PATIENCE, "{known} clients climbed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the lowest site has recorded so many reports.
    ///
    /// # Errors
    /// When more are, or it takes too long.
    pub async fn recorded(&self, reports: u64) -> Result<()> {
        let pool = &self.pools[self.levels() - 1];
        let begin = Instant::now();
        loop {
            let recorded = ground::recorded(pool).await?;
            if recorded >= reports {
                ensure!(recorded == reports, "{recorded} recorded, {reports} sent");
                return Ok(());
            }
            let late = begin.elapsed() >= PATIENCE;
            ensure!(!late, "{recorded} of {reports} recorded");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nothing is on its way up any more. A site has marked for its parent what it was
    /// told before its child forgets it, so one look at each, from below, is enough.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn arrived(&self) -> Result<()> {
        const WAITING: &str = "
            SELECT EXISTS (SELECT FROM dirty_clients)
                OR EXISTS (SELECT FROM link_batches b JOIN links l USING (peer_site_code)
                           WHERE l.is_parent)";
        let begin = Instant::now();
        for pool in self.pools[1..].iter().rev() {
            loop {
                let db = pool.get().await?;
                let sql = db.prepare_cached(WAITING).await?;
                if !db.query_one(&sql, &[]).await?.get::<_, bool>(0) {
                    break;
                }
                ensure!(begin.elapsed() < PATIENCE, "something is still on its way");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Connections to the lowest site's management point as another management point has them.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn relay(&self, connections: usize) -> Result<Relay> {
        let site = self.site(self.levels() - 1);
        let url = site.grpc(Service::ManagementPoint);
        Relay::new(&url, &tls(site, "management-point"), connections)
    }

    /// A site server as an administrator reaches it.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn administrator(&self, level: usize) -> Result<Channel> {
        let site = self.site(level);
        let options = ChannelOptions::default();
        let url = site.grpc(Service::SiteServer);
        Ok(channel(&url, &tls(site, "administrator"), &options)?)
    }

    /// What each site has used of the processors so far.
    #[must_use]
    pub fn usage(&self) -> Vec<Usage> {
        let levels = 0..self.levels();
        levels.map(|at| ground::of_site(self.site(at))).collect()
    }

    /// What a site server says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self, level: usize) -> Result<Metrics> {
        ground::metrics(self.site(level), Service::SiteServer)
    }

    /// Ends everything and removes its folder.
    ///
    /// # Errors
    /// When a process cannot be ended or the folder not removed.
    pub async fn stop(mut self) -> Result<()> {
        for pool in &self.pools {
            pool.close();
        }
        let mut hierarchy = self.hierarchy.take().context("stopped twice")?;
        tokio::task::spawn_blocking(move || hierarchy.stop()).await??;
        state::remove(&self.folder, Duration::ZERO)?;
        Ok(())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // After an error: the folder goes with the processes, the error has the end of their logs.
        if let Some(hierarchy) = self.hierarchy.take() {
            drop(hierarchy);
            let _ = state::remove(&self.folder, Duration::ZERO);
        }
    }
}

fn tls(site: &Site, name: &str) -> TlsConfig {
    let (cert, key) = site.certificate(name);
    let ca = site.ca();
    TlsConfig { ca, cert, key }
}
