//! Streams the stanzas of verified indexes into updates. The text of an index never lies in memory as
//! a whole.

use std::fs::File;
use std::io;

use muster_apt::index::{self, Limits, mismatch};
use muster_apt::packages::Reader;

use super::Failure;
use super::error::Cause;
use super::fetch_suite::NewSuite;
use crate::domain::channel::Channel;
use crate::domain::collect::{Collector, Incoming};
use crate::domain::sync::{MAX_REJECTED, RejectedStanza};
use crate::store::artifacts::Artifacts;

/// What the indexes of a synchronisation say.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) channels: Vec<Channel>,
    pub(crate) updates: Vec<Incoming>,
    pub(crate) stanzas: u64,
    pub(crate) stanzas_rejected: u64,
    /// The first of the rejected ones.
    pub(crate) rejected: Vec<RejectedStanza>,
}

/// Reads all indexes of the suites. Blocks for seconds.
///
/// An index whose hash, size or limits are wrong fails the whole reading, a stanza that is wrong only
/// itself.
pub(crate) fn read_indexes(
    artifacts: &Artifacts,
    suites: &[Box<NewSuite>],
    text_bytes: u64,
) -> Result<Reading, Failure> {
    let mut collector = Collector::default();
    let (mut stanzas, mut stanzas_rejected, mut rejected) = (0, 0, Vec::new());
    for suite in suites {
        let snapshot = &suite.state.snapshot;
        for (component, index) in &suite.indexes {
            let channel = Channel::new(
                &snapshot.archive_uri,
                &snapshot.suite,
                component,
                &suite.release,
            );
            let channel = collector.channel(channel);
            let failed = |error: io::Error| unreadable(&index.path, &error).at(&snapshot.suite);
            let file = File::open(artifacts.path(&index.compressed.sha256)).map_err(failed)?;
            let limits = Limits {
                bytes: text_bytes,
                ..Limits::default()
            };
            let text = index::open(index, file, limits).map_err(failed)?;
            let mut reject = |line: u64, package: Option<String>, reason: String| {
                stanzas_rejected += 1;
                if rejected.len() < MAX_REJECTED {
                    let (suite, path) = (snapshot.suite.clone(), index.path.clone());
                    rejected.push(RejectedStanza {
                        suite,
                        path,
                        line,
                        package,
                        reason,
                    });
                }
            };
            for package in Reader::new(text) {
                stanzas += 1;
                match package.map_err(failed)? {
                    Ok(package) => {
                        let name = package.package.clone();
                        if let Err(error) = collector.add(channel, suite.release.date, package) {
                            reject(0, Some(name), error.to_string());
                        }
                    }
                    Err(error) => reject(error.line, error.package, error.reason.to_string()),
                }
            }
        }
    }
    let (channels, updates) = collector.finish();
    Ok(Reading {
        channels,
        updates,
        stanzas,
        stanzas_rejected,
        rejected,
    })
}

fn unreadable(file: &str, error: &io::Error) -> Cause {
    if let Some(found) = mismatch(error) {
        return Cause::Mismatch(found.clone());
    }
    let file = file.to_owned();
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Cause::Truncated { file };
    }
    Cause::Unreadable {
        file,
        reason: error.to_string(),
    }
}
