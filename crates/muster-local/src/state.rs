//! The folder that holds everything of one set of private servers, and the list of processes
//! that were started for it.
//!
//! ```text
//! <root>/state.json       who owns it and where the servers' own folders are
//! <root>/processes.json   what runs: name, pid, start time, how to end it
//! <root>/logs/            one file per process
//! <root>/secrets/         passwords, mode 0600
//! <root>/servers/         data of PostgreSQL and RabbitMQ   (elsewhere when their account cannot get here)
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::account;
use crate::interrupt::{Interrupt, POLL};
use crate::process::Identity;
use crate::secret::write_private;

/// A unix socket's path is limited to 107 bytes; the servers append up to 20 of their own.
const LONGEST_SOCKET_FOLDER: usize = 80;

/// The state folder; clones are the same folder.
#[derive(Clone, Debug)]
pub struct State(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    file: StateFile,
    interrupt: Interrupt,
    processes: Mutex<Vec<Record>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StateFile {
    /// Proves that the folder is ours before anything in it is removed.
    format: String,
    /// The xtask that works with it.
    owner: Identity,
    /// Data folders of the servers.
    servers: PathBuf,
    /// Folder for sockets.
    run: PathBuf,
}

const FORMAT: &str = "muster-local 1";

/// One process that was started and has not been seen to end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its name, also of its log file.
    pub name: String,
    /// Which process it is.
    pub identity: Identity,
    /// The signal that asks it to finish what it has in hand and stop (`TERM`, `INT`).
    pub stop_signal: String,
}

impl State {
    /// Opens the folder, or makes it. Processes that a dead owner left running are ended first.
    ///
    /// # Errors
    /// Another living process owns it, it holds files that are not ours, or it cannot be written.
    pub fn open(root: &Path, interrupt: Interrupt) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        let root = root.canonicalize()?;
        let known = read_state(&root)?;
        let file = match known {
            Some(file) => {
                if file.owner.is_alive() && file.owner != Identity::own()? {
                    bail!(
                        "{} is in use by process {}; `cargo xtask down` ends it",
                        root.display(),
                        file.owner.pid
                    );
                }
                end_leftovers(&root)?;
                StateFile {
                    owner: Identity::own()?,
                    ..file
                }
            }
            None => {
                if fs::read_dir(&root)?.next().is_some() {
                    bail!(
                        "{} holds files that are not ours: name an empty folder",
                        root.display()
                    );
                }
                let servers = servers_folder(&root)?;
                let run = run_folder(&servers)?;
                StateFile {
                    format: FORMAT.to_owned(),
                    owner: Identity::own()?,
                    servers,
                    run,
                }
            }
        };
        for folder in [
            &file.servers,
            &file.run,
            &root.join("logs"),
            &root.join("secrets"),
        ] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::set_permissions(root.join("secrets"), fs::Permissions::from_mode(0o700))?;
        write_private(
            &root.join("state.json"),
            &serde_json::to_string_pretty(&file)?,
        )?;
        Ok(Self(Arc::new(Inner {
            root,
            file,
            interrupt,
            processes: Mutex::default(),
        })))
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Where the log of a process of this name is written.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.0.root.join("logs").join(format!("{name}.log"))
    }

    /// Passwords and keys; only the owner gets in.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.0.root.join("secrets")
    }

    /// Where the servers keep their data; their unprivileged account can get here.
    #[must_use]
    pub fn servers(&self) -> &Path {
        &self.0.file.servers
    }

    /// A folder with a path short enough for sockets; the unprivileged account can get here.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.0.file.run
    }

    /// What ends every wait.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.0.interrupt
    }

    /// What runs now.
    #[must_use]
    pub fn processes(&self) -> Vec<Record> {
        self.0
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn remember(&self, record: Record) -> Result<()> {
        self.change(|all| all.push(record))
    }

    pub(crate) fn forget(&self, identity: &Identity) -> Result<()> {
        self.change(|all| all.retain(|it| it.identity != *identity))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Record>)) -> Result<()> {
        let mut all = self
            .0
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut all);
        write_private(
            &processes_file(&self.0.root),
            &serde_json::to_string_pretty(&*all)?,
        )
    }
}

/// What [`remove`] found and did.
#[derive(Debug, Default)]
pub struct Removed {
    /// Names of the processes that still ran and were ended.
    pub ended: Vec<String>,
    /// Folders that were removed.
    pub folders: Vec<PathBuf>,
}

/// Ends what runs for the state folder (its owner first, which gets `patience` to clean up by
/// itself) and removes everything that was made for it. A folder without our mark is left alone.
///
/// # Errors
/// The folder is not ours, or a process or a file resists.
pub fn remove(root: &Path, patience: Duration) -> Result<Removed> {
    let mut removed = Removed::default();
    let Some(file) = read_state(root)? else {
        if !root.exists() || fs::read_dir(root)?.next().is_none() {
            return Ok(removed);
        }
        bail!("{} was not made by us: nothing removed", root.display());
    };
    if file.owner.is_alive() && file.owner != Identity::own()? {
        file.owner.signal("TERM", false)?;
        removed
            .ended
            .push(format!("xtask (process {})", file.owner.pid));
        if !file.owner.wait_end(patience) {
            bail!(
                "process {} does not end; its log may say why",
                file.owner.pid
            );
        }
    }
    removed.ended.extend(end_leftovers(root)?);
    // The sites of a hierarchy have state folders of their own in it.
    if let Ok(sites) = fs::read_dir(root.join("sites")) {
        for site in sites {
            let inner = remove(&site?.path(), patience)?;
            removed.ended.extend(inner.ended);
            removed.folders.extend(inner.folders);
        }
    }
    for folder in [&file.run, &file.servers, &root.to_path_buf()] {
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
            removed.folders.push(folder.clone());
        }
    }
    Ok(removed)
}

/// Whether a living process owns the state folder.
///
/// # Errors
/// The folder's mark cannot be read.
pub fn in_use(root: &Path) -> Result<bool> {
    Ok(read_state(root)?.is_some_and(|it| it.owner.is_alive()))
}

fn read_state(root: &Path) -> Result<Option<StateFile>> {
    let path = root.join("state.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let file: StateFile = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a state file", path.display()))?;
    if file.format != FORMAT {
        bail!("{} is of another version: {}", path.display(), file.format);
    }
    Ok(Some(file))
}

/// Ends what an owner that is gone left running, last started first.
fn end_leftovers(root: &Path) -> Result<Vec<String>> {
    let path = processes_file(root);
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(Vec::new());
    };
    let records: Vec<Record> = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a list of processes", path.display()))?;
    let mut ended = Vec::new();
    for record in records.iter().rev().filter(|it| it.identity.is_alive()) {
        record.identity.signal(&record.stop_signal, false)?;
        if !record.identity.wait_end(Duration::from_secs(10)) {
            record.identity.signal("KILL", true)?;
            if !record.identity.wait_end(Duration::from_secs(10)) {
                bail!(
                    "{} (process {}) cannot be killed",
                    record.name,
                    record.identity.pid
                );
            }
        }
        ended.push(record.name.clone());
    }
    fs::remove_file(&path)?;
    Ok(ended)
}

fn processes_file(root: &Path) -> PathBuf {
    root.join("processes.json")
}

fn servers_folder(root: &Path) -> Result<PathBuf> {
    if !account::is_root() || account::can_be_entered_by_others(root) {
        return Ok(root.join("servers"));
    }
    fresh_folder(Path::new("/var/tmp"))
}

fn run_folder(servers: &Path) -> Result<PathBuf> {
    let run = servers.join("run");
    if run.as_os_str().len() <= LONGEST_SOCKET_FOLDER {
        return Ok(run);
    }
    fresh_folder(Path::new("/tmp"))
}

/// A new folder with a name nobody can guess, in a folder everybody may write to.
fn fresh_folder(parent: &Path) -> Result<PathBuf> {
    let path = parent.join(format!("muster-{:016x}", rand::random::<u64>()));
    fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o711))?;
    Ok(path)
}

impl Identity {
    /// Waits until the process is gone; `false` when it is still there after `patience`.
    #[must_use]
    pub fn wait_end(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }
}
