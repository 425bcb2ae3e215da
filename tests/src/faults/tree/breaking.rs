//! Site servers of a hierarchy with a failpoint or without a protection, and what comes of it.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_local::Service;

use super::super::ground::{Load, faulty, hit_lines};
use super::super::oracle::Verdict;
use super::super::schedule::Strike;
use super::Forest;

/// How long until a failpoint is hit.
const HIT: Duration = Duration::from_secs(60);

impl Forest {
    /// Starts a site's server again so that it ends at a failpoint, and without protections. Does not
    /// wait until it is ready: it may end before that.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn break_server(
        &mut self,
        code: &str,
        strike: Option<&Strike>,
        without: &[&str],
    ) -> Result<()> {
        let args = faulty(Service::SiteServer, strike, without, &self.hits());
        let site = self.sites().site_mut(code)?;
        site.terminate(Service::SiteServer)?;
        site.spawn_as(Service::SiteServer, "muster-faulty", &args)
    }

    /// As [`Forest::break_server`], and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn run_without(&mut self, code: &str, without: &[&str]) -> Result<()> {
        self.break_server(code, None, without)?;
        self.sites().site_mut(code)?.wait_ready(Service::SiteServer)
    }

    /// Starts the real program of a site's server again, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn mend(&mut self, code: &str) -> Result<()> {
        let site = self.sites().site_mut(code)?;
        site.terminate(Service::SiteServer)?;
        let production = Service::SiteServer.name();
        site.spawn_as(Service::SiteServer, production, &[])?;
        site.wait_ready(Service::SiteServer)
    }

    /// Ends a site's server at a failpoint. `meanwhile` is done again and again until then.
    ///
    /// # Errors
    /// When the failpoint is not reached, or the server ends for another reason.
    pub fn end_at(
        &mut self,
        code: &str,
        strike: &Strike,
        without: &[&str],
        mut meanwhile: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.note(&format!("{code} {} {}", strike.point, strike.nth))?;
        let before = hit_lines(&self.hits())?.len();
        self.break_server(code, Some(strike), without)?;
        let end = Instant::now() + HIT;
        while self
            .sites()
            .site_mut(code)?
            .is_running(Service::SiteServer)?
        {
            meanwhile(self)?;
            ensure!(Instant::now() < end, "{} was never reached", strike.point);
            thread::sleep(Duration::from_millis(50));
        }
        let lines = hit_lines(&self.hits())?;
        let hit = lines.get(before).map(|(point, _)| point.as_str());
        ensure!(
            lines.len() == before + 1 && hit == Some(strike.point),
            "{code} ended for another reason than {}:\n{}",
            strike.point,
            self.sites().site_mut(code)?.log_text(Service::SiteServer)
        );
        Ok(())
    }

    fn hits(&self) -> PathBuf {
        self.folder.join("hits.journal")
    }

    /// Waits until a site has what a load got acknowledged up to now, which may go on, and judges
    /// that. What is still missing after the time is in the verdict.
    ///
    /// # Errors
    /// When the database does not answer.
    pub fn settle(&mut self, code: &str, load: &mut Load, patience: Duration) -> Result<Verdict> {
        load.read()?;
        let end = Instant::now() + patience;
        let goals = load.history.clients.iter();
        let goals: Vec<u64> = goals.map(|it| it.acknowledged).collect();
        loop {
            let snapshot = self.snapshot(code)?;
            let mut clients = load.history.clients.iter().zip(&goals);
            let reached = clients.all(|(client, goal)| {
                let row = snapshot.rows.get(&client.id);
                row.is_some_and(|row| row.contiguous >= *goal)
            });
            if reached || Instant::now() > end {
                // The journal has everything that the snapshot can have, and more.
                load.read()?;
                let mut history = load.history.clone_marks();
                for (client, goal) in history.clients.iter_mut().zip(goals) {
                    client.acknowledged = goal;
                }
                return Ok(snapshot.judge(&history));
            }
            thread::sleep(Duration::from_millis(150));
        }
    }
}
