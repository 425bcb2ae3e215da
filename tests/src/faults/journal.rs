//! What clients attempted and what was acknowledged: lines of text, on disk before anything that
//! follows from them happens. Whoever reads it later needs nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write as _};
use std::path::Path;
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;
use uuid::Uuid;

/// A state of one update on one client, with the serial the client gave the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The client's own counter.
    pub serial: u64,
    /// Which update.
    pub update_no: u32,
    /// `muster_domain::states::Detection` as a number.
    pub state: u8,
}

/// A state of a deployment on one client, or of one update of it; each has its serial at the site
/// too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The client's own counter.
    pub serial: u64,
    /// Which one; update 0: the deployment as a whole.
    pub of: Subject,
    /// Topic 402 as a number; of a whole deployment topics 300, 301 and 302, see [`Word::whole`].
    pub state: u16,
}

/// A deployment of the load, from 1, and the number of an update in it.
pub type Subject = (u8, u32);

/// Deployments of the load have ids one after the other.
const DEPLOYMENTS: u128 = 0xdeb1_0000;

/// The id of a deployment of the load.
#[must_use]
pub const fn deployment_id(number: u8) -> Uuid {
    Uuid::from_u128(DEPLOYMENTS + number as u128)
}

/// The number of a deployment of the load.
#[must_use]
pub fn deployment_number(id: Uuid) -> Option<u8> {
    let number = id.as_u128().checked_sub(DEPLOYMENTS)?;
    u8::try_from(number).ok().filter(|it| *it > 0)
}

impl Word {
    /// Topics 300, 301 and 302 in one number.
    #[must_use]
    pub fn whole(topics: [u8; 3]) -> u16 {
        let [compliance, enforcement, evaluation] = topics.map(u16::from);
        compliance | enforcement << 4 | evaluation << 8
    }

    /// The other way round.
    #[must_use]
    pub fn topics(state: u16) -> [u8; 3] {
        [0, 4, 8].map(|by| u8::try_from(state >> by & 15).unwrap_or(0))
    }
}

/// A report on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Of which client, by its place in the fleet.
    pub client: usize,
    /// The epoch it is in.
    pub epoch: u32,
    /// It says everything.
    pub full: bool,
    /// Changes from here.
    pub first: u64,
    /// Changes up to here.
    pub last: u64,
    /// What it says.
    pub changes: Vec<Change>,
    /// What it says of deployments.
    pub words: Vec<Word>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A client of the fleet, in their order.
    Client(Uuid),
    /// A report goes out in the call with this number.
    Attempt(u64, Attempt),
    /// Everything in that call was acknowledged.
    Acknowledged(u64),
    /// Nobody knows what became of that call; its reports come again.
    Unknown(u64),
}

/// Microseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |it| u64::try_from(it.as_micros()).unwrap_or(0))
}

/// The writing end. Clones share the file.
#[derive(Debug, Clone)]
pub struct Journal {
    lines: mpsc::Sender<(String, oneshot::Sender<()>)>,
}

impl Journal {
    /// Makes the file; one that is there is somebody else's.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        let mut file = file.with_context(|| format!("cannot make {}", path.display()))?;
        let (lines, inbox) = mpsc::channel::<(String, oneshot::Sender<()>)>();
        std::thread::spawn(move || {
            while let Ok(first) = inbox.recv() {
                // What came while the disk was busy goes to it together.
                let mut batch = vec![first];
                batch.extend(inbox.try_iter());
                let text: String = batch.iter().map(|(text, _)| text.as_str()).collect();
                if file.write_all(text.as_bytes()).is_err() || file.sync_data().is_err() {
                    // Nobody is told, so nothing is sent any more.
                    return;
                }
                for (_, told) in batch {
                    let _ = told.send(());
                }
            }
        });
        Ok(Self { lines })
    }

    /// Writes entries; they are on disk when this returns.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub async fn write(&self, entries: &[Entry]) -> Result<()> {
        let (told, done) = oneshot::channel();
        let text = entries.iter().map(line).collect();
        self.lines
            .send((text, told))
            .ok()
            .context("the journal is closed")?;
        done.await.context("the journal cannot be written")
    }
}

fn line(entry: &Entry) -> String {
    let at = now();
    match entry {
        Entry::Client(id) => format!("C {at} {id}\n"),
        Entry::Acknowledged(call) => format!("K {at} {call}\n"),
        Entry::Unknown(call) => format!("N {at} {call}\n"),
        Entry::Attempt(call, it) => {
            let kind = if it.full { 'F' } else { 'D' };
            let mut text = format!(
                "A {at} {call} {} {} {kind} {} {} ",
                it.client, it.epoch, it.first, it.last
            );
            for change in &it.changes {
                let _ = write!(
                    text,
                    "{}:{}:{},",
                    change.serial, change.update_no, change.state
                );
            }
            text.push(' ');
            for Word { serial, of, state } in &it.words {
                let _ = write!(text, "{serial}:{}:{}:{state},", of.0, of.1);
            }
            text.push('\n');
            text
        }
    }
}

fn parse(line: &str) -> Result<(u64, Entry)> {
    let mut words = line.split(' ');
    let mut word = || words.next().context("a line is too short");
    let kind = word()?;
    let at = word()?.parse()?;
    let entry = match kind {
        "C" => Entry::Client(word()?.parse()?),
        "K" => Entry::Acknowledged(word()?.parse()?),
        "N" => Entry::Unknown(word()?.parse()?),
        "A" => {
            let call = word()?.parse()?;
            let (client, epoch) = (word()?.parse()?, word()?.parse()?);
            let full = word()? == "F";
            let (first, last) = (word()?.parse()?, word()?.parse()?);
            let changes = word()?.split_terminator(',').map(|change| {
                let mut parts = change.split(':');
                let mut part = || parts.next().context("a change is too short");
                Ok(Change {
                    serial: part()?.parse()?,
                    update_no: part()?.parse()?,
                    state: part()?.parse()?,
                })
            });
            let changes = changes.collect::<Result<_>>()?;
            let words = word()?.split_terminator(',').map(|word| {
                let mut parts = word.split(':');
                let mut part = || parts.next().context("a word is too short");
                Ok(Word {
                    serial: part()?.parse()?,
                    of: (part()?.parse()?, part()?.parse()?),
                    state: part()?.parse()?,
                })
            });
            let words = words.collect::<Result<_>>()?;
            let attempt = Attempt {
                client,
                epoch,
                full,
                first,
                last,
                changes,
                words,
            };
            Entry::Attempt(call, attempt)
        }
        other => bail!("a line of an unknown kind {other}"),
    };
    Ok((at, entry))
}

/// What one client did.
#[derive(Debug, Clone, Default)]
pub struct ClientHistory {
    /// Its id.
    pub id: Uuid,
    /// Every change it ever attempted to report, by serial.
    pub changes: BTreeMap<u64, Change>,
    /// Every state of a deployment that it ever attempted to report, by serial.
    pub words: BTreeMap<u64, Word>,
    /// The highest serial that was acknowledged.
    pub acknowledged: u64,
    /// The highest serial that was attempted.
    pub attempted: u64,
}

/// A journal as it was read so far.
#[derive(Debug, Default)]
pub struct History {
    /// By their place in the fleet.
    pub clients: Vec<ClientHistory>,
    /// Reports attempted, repeats included.
    pub attempts: u64,
    /// Of them: acknowledged.
    pub acknowledged: u64,
    /// Reports that went out after one of the same client with a higher serial.
    pub reordered: u64,
    /// Reports that went out before.
    pub repeated: u64,
    /// Calls by number: when each began, and when it was answered.
    calls: BTreeMap<u64, Call>,
    newest: Vec<u64>,
    reports: BTreeSet<(usize, bool, u64, u64)>,
    read_to: u64,
}

#[derive(Debug, Default)]
struct Call {
    began: u64,
    ended: Option<u64>,
    reports: Vec<(usize, u64)>,
}

impl History {
    /// Reads what was written since the last time. A line that is only half there waits.
    ///
    /// # Errors
    /// When the file cannot be read or a line makes no sense.
    pub fn read_on(&mut self, path: &Path) -> Result<()> {
        let mut file =
            File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        file.seek(SeekFrom::Start(self.read_to))?;
        let mut lines = BufReader::new(file);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
            let (at, entry) = parse(line.trim_end_matches('\n'))
                .with_context(|| format!("{}: {line}", path.display()))?;
            self.take(at, entry)?;
            self.read_to += line.len() as u64;
            line.clear();
        }
        Ok(())
    }

    fn take(&mut self, at: u64, entry: Entry) -> Result<()> {
        match entry {
            Entry::Client(id) => {
                self.clients.push(ClientHistory {
                    id,
                    ..Default::default()
                });
                self.newest.push(0);
            }
            Entry::Attempt(call, attempt) => {
                let place = attempt.client;
                let client = self.clients.get_mut(place).context("a report of nobody")?;
                self.attempts += 1;
                let (full, first, last) = (attempt.full, attempt.first, attempt.last);
                let fresh = self.reports.insert((place, full, first, last));
                self.repeated += u64::from(!fresh);
                let newest = &mut self.newest[place];
                self.reordered += u64::from(attempt.last < *newest);
                *newest = attempt.last;
                client.attempted = client.attempted.max(attempt.last);
                for change in attempt.changes {
                    client.changes.insert(change.serial, change);
                }
                for word in attempt.words {
                    client.words.insert(word.serial, word);
                }
                let call = self.calls.entry(call).or_default();
                if call.reports.is_empty() {
                    call.began = at;
                }
                call.reports.push((place, attempt.last));
            }
            Entry::Acknowledged(call) => {
                let call = self.calls.get_mut(&call).context("an answer to nothing")?;
                call.ended = Some(at);
                self.acknowledged += call.reports.len() as u64;
                for (place, last) in &call.reports {
                    let held = &mut self.clients[*place].acknowledged;
                    *held = (*held).max(*last);
                }
            }
            Entry::Unknown(call) => {
                let call = self.calls.get_mut(&call).context("an answer to nothing")?;
                call.ended = Some(at);
            }
        }
        Ok(())
    }

    /// Reports that went out by a time and that the site has not recorded, given up to which serial
    /// it has each client's.
    #[must_use]
    pub fn under_way(&self, at: u64, recorded: impl Fn(&Uuid) -> u64) -> usize {
        let marks: Vec<u64> = self.clients.iter().map(|it| recorded(&it.id)).collect();
        let reports = self.calls.values().filter(|call| call.began <= at);
        reports
            .flat_map(|call| &call.reports)
            .filter(|(place, last)| marks.get(*place).is_none_or(|mark| mark < last))
            .count()
    }

    /// States that were acknowledged: what the design calls state messages. A report holds several,
    /// and one that changed again before it was told is none.
    #[must_use]
    pub fn states(&self) -> u64 {
        let of = |client: &ClientHistory| {
            let to = client.acknowledged;
            client.changes.range(..=to).count() + client.words.range(..=to).count()
        };
        self.clients.iter().map(of).sum::<usize>() as u64
    }

    /// Different FULL reports that were ever made; each client begins with one.
    #[must_use]
    pub fn full(&self) -> usize {
        self.reports.iter().filter(|(_, full, ..)| *full).count()
    }

    /// Different reports that were ever made.
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.reports.len()
    }

    /// The clients and the sums, without the calls.
    #[must_use]
    pub fn clone_marks(&self) -> Self {
        Self {
            clients: self.clients.clone(),
            attempts: self.attempts,
            acknowledged: self.acknowledged,
            ..Self::default()
        }
    }

    /// Calls without an answer at a time.
    #[must_use]
    pub fn in_flight(&self, at: u64) -> usize {
        self.calls
            .values()
            .filter(|call| call.began <= at && call.ended.is_none_or(|ended| ended >= at))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_back_and_half_a_line_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::create(&path).unwrap();
        let attempt = |call, first, last| {
            let change = |serial| Change {
                serial,
                update_no: 7,
                state: 2,
            };
            let attempt = Attempt {
                client: 0,
                epoch: 1,
                full: first == 1,
                first,
                last,
                changes: (first..last).map(change).collect(),
                words: vec![Word {
                    serial: last,
                    of: (2, 0),
                    state: Word::whole([1, 12, 3]),
                }],
            };
            Entry::Attempt(call, attempt)
        };
        let entries = [
            Entry::Client(Uuid::from_u128(1)),
            attempt(1, 1, 2),
            attempt(2, 5, 6),
            attempt(3, 3, 4),
            Entry::Acknowledged(2),
            Entry::Unknown(3),
        ];
        journal.write(&entries).await.unwrap();
        let half = OpenOptions::new().append(true).open(&path);
        half.unwrap().write_all(b"K 1 1").unwrap();
        let mut history = History::default();
        history.read_on(&path).unwrap();
        let client = &history.clients[0];
        assert_eq!((client.acknowledged, client.attempted), (6, 6));
        assert_eq!((client.changes.len(), client.words.len()), (3, 3));
        assert_eq!(Word::topics(client.words[&6].state), [1, 12, 3]);
        assert_eq!(client.words[&6].of, (2, 0));
        assert_eq!((history.attempts, history.reordered), (3, 1));
        assert_eq!(history.in_flight(now()), 1);
        let rest = OpenOptions::new().append(true).open(&path);
        rest.unwrap().write_all(b"\n").unwrap();
        history.read_on(&path).unwrap();
        assert_eq!(history.in_flight(now()), 0);
        assert_eq!((history.acknowledged, history.states()), (2, 6));
        assert!(Journal::create(&path).is_err(), "it is never written over");
    }
}
