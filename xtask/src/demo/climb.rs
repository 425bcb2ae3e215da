//! How long states of deployments take to climb: when a site below has one in its database, and when
//! the central site has it, or a newer one of the same client.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use muster_domain::states::DeploymentEnforcement;
use muster_local::Site;

/// How often both are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What a client says of a deployment: its serial orders what it said.
type Said = (String, u64);

/// The states that were seen, and when.
#[derive(Default)]
pub(super) struct Climb {
    below: BTreeMap<Said, (u8, Instant)>,
    above: BTreeMap<Said, Instant>,
}

/// Looks at all sites until told to stop. The first one is the central site.
pub(super) fn watch(sites: &[&Site], stop: &AtomicBool) -> Result<Climb> {
    let mut climb = Climb::default();
    let (central, below) = sites.split_first().context("no sites")?;
    loop {
        let last = stop.load(Ordering::Relaxed);
        // Below first: what climbs meanwhile must not seem to have been above before.
        for site in below {
            for (said, state) in look(site)? {
                climb.below.entry(said).or_insert((state, Instant::now()));
            }
        }
        for (said, _) in look(central)? {
            climb.above.entry(said).or_insert_with(Instant::now);
        }
        if last {
            return Ok(climb);
        }
        std::thread::sleep(LOOK);
    }
}

fn look(site: &Site) -> Result<Vec<(Said, u8)>> {
    const SQL: &str = "
        SELECT c.client_id, s.serial, s.enforcement
        FROM site.deployment_states s JOIN site.clients c USING (client_no);";
    let database = format!("muster_{}", site.code().to_ascii_lowercase());
    let text = site.postgres.psql(&database, SQL, &[])?;
    let rows = text.lines().filter_map(|line| {
        let mut parts = line.split('|');
        let (client, serial) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
        Some(((client, serial), parts.next()?.parse().ok()?))
    });
    Ok(rows.collect())
}

/// Times of states that climbed, shortest first.
pub(super) struct Times(Vec<Duration>);

impl Times {
    /// The time within which this part of them was there.
    pub(super) fn within(&self, part: f64) -> f64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let at = ((self.0.len() as f64 * part).ceil() as usize).saturating_sub(1);
        let time = self.0.get(at).copied().unwrap_or_default();
        (time.as_secs_f64() * 10.0).round() / 10.0
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl Climb {
    /// By what the state says.
    pub(super) fn by_state(&self) -> Vec<(&'static str, Times)> {
        let mut by_state: BTreeMap<u8, Vec<Duration>> = BTreeMap::new();
        for ((client, serial), (state, at)) in &self.below {
            let newer = (client.clone(), *serial)..=(client.clone(), u64::MAX);
            let above = self.above.range(newer).map(|(_, at)| *at).min();
            if let Some(above) = above {
                let took = above.saturating_duration_since(*at);
                by_state.entry(*state).or_default().push(took);
            }
        }
        let text = |state| {
            DeploymentEnforcement::from_id(state).map_or("unknown", DeploymentEnforcement::text)
        };
        let sorted = |(state, mut times): (u8, Vec<Duration>)| {
            times.sort_unstable();
            (text(state), Times(times))
        };
        by_state.into_iter().map(sorted).collect()
    }

    /// All of them.
    pub(super) fn all(&self) -> Times {
        let mut all: Vec<Duration> = self
            .by_state()
            .into_iter()
            .flat_map(|(_, times)| times.0)
            .collect();
        all.sort_unstable();
        Times(all)
    }

    /// Seen below, and neither they nor newer ones above.
    pub(super) fn missing(&self) -> usize {
        self.below.len() - self.all().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_state_of_the_same_client_stands_for_an_older_one() {
        let (begin, mut climb) = (Instant::now(), Climb::default());
        let at = |ms| begin + Duration::from_millis(ms);
        let said = |client: &str, serial| (client.to_owned(), serial);
        climb.below.insert(said("a", 1), (1, at(0)));
        climb.below.insert(said("a", 2), (5, at(100)));
        climb.below.insert(said("b", 7), (5, at(100)));
        climb.above.insert(said("a", 2), at(1_000));
        assert_eq!((climb.all().count(), climb.missing()), (2, 1));
        assert_eq!(climb.all().within(1.0), 1.0);
        assert_eq!(climb.all().within(0.5), 0.9);
    }
}
