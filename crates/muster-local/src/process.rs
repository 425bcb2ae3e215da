//! One child process: started in its own process group, logging to a file, ended by its pid.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::http;
use crate::interrupt::POLL;
use crate::state::{Record, State};

/// A process, told apart from a later one that got the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since this boot.
    pub started: u64,
    /// Which boot that was.
    pub boot: String,
}

impl Identity {
    /// The process with this number, if it runs.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started = start_time(&stat)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Some(Self {
            pid,
            started,
            boot: boot.trim().to_owned(),
        })
    }

    /// This process.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn own() -> Result<Self> {
        Self::of(std::process::id()).context("cannot read /proc/self/stat")
    }

    /// Whether it still runs (a zombie does not).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal (`TERM`, `INT`, `KILL`, `STOP`, `CONT`) to the process, or to its whole
    /// group. A process that is gone is not an error.
    ///
    /// # Errors
    /// The shell that sends it cannot be started, or we may not signal the process.
    pub fn signal(&self, signal: &str, whole_group: bool) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let target = if whole_group {
            format!("-{}", self.pid)
        } else {
            self.pid.to_string()
        };
        // The shell's own `kill`: the program of that name is in a package that may be missing.
        let status = Command::new("/bin/sh")
            .args([
                "-c",
                r#"kill -s "$1" -- "$2" 2>/dev/null"#,
                "sh",
                signal,
                &target,
            ])
            .status()
            .context("cannot start /bin/sh")?;
        if !status.success() && self.is_alive() {
            bail!("cannot send {signal} to process {}", self.pid);
        }
        Ok(())
    }
}

/// Field 22 of `/proc/<pid>/stat`; `None` for a zombie. The name in field 2 may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What to start and how.
#[derive(Clone, Debug)]
pub struct Launch {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    bare: bool,
    account: Option<Account>,
    folder: Option<PathBuf>,
    stop_signal: &'static str,
}

impl Launch {
    /// `name` is the name of its log and in messages.
    #[must_use]
    pub fn new(name: &str, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            bare: false,
            account: None,
            folder: None,
            stop_signal: "TERM",
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|it| it.as_ref().to_owned()));
        self
    }

    /// Sets one variable of its environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it without our environment: only `PATH` and what [`Launch::env`] sets.
    #[must_use]
    pub fn bare_environment(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Starts it as this account.
    #[must_use]
    pub fn account(mut self, account: Option<&Account>) -> Self {
        self.account = account.cloned();
        self
    }

    /// Its working folder; `/` when not set.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// The signal that asks it to stop, when that is not `TERM`.
    #[must_use]
    pub fn stop_signal(mut self, signal: &'static str) -> Self {
        self.stop_signal = signal;
        self
    }

    /// The command, for a process that is waited for at once.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if self.bare {
            command.env_clear();
            command.env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            );
        }
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .current_dir(self.folder.as_deref().unwrap_or(Path::new("/")))
            .process_group(0);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }
}

/// A running (or killed) child. Dropping it kills it and everything in its process group.
#[derive(Debug)]
pub struct Process {
    state: State,
    launch: Launch,
    log: PathBuf,
    /// Where the log of this run begins.
    log_start: u64,
    running: Option<(Child, Identity)>,
}

impl Process {
    /// Starts it. Its output is appended to `logs/<name>.log` of the state folder.
    ///
    /// # Errors
    /// The program cannot be started or the log not written.
    pub fn spawn(state: &State, launch: Launch) -> Result<Self> {
        let log = state.log(&launch.name);
        let mut process = Self {
            state: state.clone(),
            launch,
            log,
            log_start: 0,
            running: None,
        };
        process.start()?;
        Ok(process)
    }

    /// Starts it once more after [`Process::kill_9`] or [`Process::terminate`].
    ///
    /// # Errors
    /// It still runs, or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        if self.exit_status()?.is_none() && self.running.is_some() {
            bail!("{} still runs", self.launch.name);
        }
        self.start()
    }

    /// As [`Process::restart`], as another program or with other arguments from now on.
    ///
    /// # Errors
    /// As [`Process::restart`].
    pub fn restart_as(&mut self, launch: Launch) -> Result<()> {
        self.launch = launch;
        self.restart()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It was ended before, or does not end in time.
    pub fn wait_end(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if self.running.is_none() {
                bail!("{} does not run", self.launch.name);
            }
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!(
                    "{} has not ended after {} s{}",
                    self.launch.name,
                    deadline.as_secs(),
                    self.log_tail()
                );
            }
            self.state.interrupt().sleep(POLL)?;
        }
    }

    /// Sends a signal (`STOP`, `CONT`) to the process alone.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn signal(&self, signal: &str) -> Result<()> {
        match &self.running {
            Some((_, identity)) => identity.signal(signal, false),
            None => bail!("{} does not run", self.launch.name),
        }
    }

    fn start(&mut self) -> Result<()> {
        let name = &self.launch.name;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        self.log_start = log.metadata()?.len();
        let child = self
            .launch
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", self.launch.program.display()))?;
        // The kernel keeps the entry of a child, even of one that ended, until we wait for it;
        // one that ended at once has no identity to remember and is found out by its exit status.
        let identity = Identity::of(child.id()).unwrap_or(Identity {
            pid: child.id(),
            started: 0,
            boot: String::new(),
        });
        self.running = Some((child, identity.clone()));
        self.state.remember(Record {
            name: name.clone(),
            identity,
            stop_signal: self.launch.stop_signal.to_owned(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its number while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|(child, _)| child.id())
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.exit_status()?.is_none() && self.running.is_some())
    }

    /// How it ended; `None` while it runs and when it was ended by us.
    fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        let Some((child, identity)) = &mut self.running else {
            return Ok(None);
        };
        let status = child.try_wait()?;
        if status.is_some() {
            self.state.forget(identity)?;
            self.running = None;
        }
        Ok(status)
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// The process ends, the deadline passes or somebody interrupts; the error shows the last
    /// lines of the log.
    pub fn wait_until(
        &mut self,
        deadline: Duration,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.exit_status()? {
                bail!(
                    "{} ended while starting ({status}){}",
                    self.launch.name,
                    self.log_tail()
                );
            }
            let answer = ready();
            if matches!(answer, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > end {
                let why = answer
                    .err()
                    .map(|it| format!(": {it:#}"))
                    .unwrap_or_default();
                bail!(
                    "{} was not ready after {} s{why}{}",
                    self.launch.name,
                    deadline.as_secs(),
                    self.log_tail()
                );
            }
            self.state.interrupt().sleep(POLL)?;
        }
    }

    /// Waits until its readiness page answers 200.
    ///
    /// # Errors
    /// As [`Process::wait_until`].
    pub fn wait_ready(&mut self, url: &str, deadline: Duration) -> Result<()> {
        self.wait_until(deadline, || {
            let (status, body) = http::get(url, Duration::from_secs(2))?;
            if status != 200 {
                bail!("{url} answered {status} {}", body.trim());
            }
            Ok(true)
        })
    }

    /// Kills the process, and only it, like a power cut would: nothing is flushed.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn kill_9(&mut self) -> Result<()> {
        if let Some((mut child, identity)) = self.running.take() {
            child
                .kill()
                .with_context(|| format!("cannot kill {}", self.launch.name))?;
            child.wait()?;
            self.state.forget(&identity)?;
        }
        Ok(())
    }

    /// Asks it to stop, and kills its process group when it has not after `patience`. `true` when
    /// it stopped by itself with exit status 0.
    ///
    /// # Errors
    /// A signal cannot be sent.
    pub fn terminate(&mut self, patience: Duration) -> Result<bool> {
        let Some((mut child, identity)) = self.running.take() else {
            return Ok(true);
        };
        identity.signal(self.launch.stop_signal, false)?;
        let end = Instant::now() + patience;
        let mut status = child.try_wait()?;
        while status.is_none() && Instant::now() < end {
            std::thread::sleep(POLL);
            status = child.try_wait()?;
        }
        if status.is_none() {
            identity.signal("KILL", true)?;
            child.wait()?;
        }
        self.state.forget(&identity)?;
        Ok(status.is_some_and(|it| it.success()))
    }

    /// What it has logged since it was started last, up to 256 KiB.
    #[must_use]
    pub fn log_text(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(
                self.log_start.max(end.saturating_sub(256 << 10)),
            ))?;
            let mut text = Vec::new();
            file.take(256 << 10).read_to_end(&mut text)?;
            Ok(text)
        };
        read()
            .map(|it| String::from_utf8_lossy(&it).into_owned())
            .unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.len().saturating_sub(20);
        let mut tail = format!("\nthe end of {}:\n", self.log.display());
        for line in &lines[last..] {
            tail.push_str("    ");
            tail.push_str(line);
            tail.push('\n');
        }
        tail
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some((mut child, identity)) = self.running.take() {
            let _ = identity.signal("KILL", true);
            let _ = child.kill();
            let _ = child.wait();
            let _ = self.state.forget(&identity);
        }
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// It cannot be started or fails; the error shows the end of its error output.
pub fn output(mut command: Command, stdin: &str) -> Result<String> {
    use std::io::Write as _;
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // Our scripts are far smaller than a pipe holds, so this cannot block on the output. The
        // reader may end before it has read everything: its status tells.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = errors.lines().collect();
        bail!(
            "{name} failed ({}): {}",
            output.status,
            lines[lines.len().saturating_sub(8)..].join(" | ")
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interrupt;

    #[test]
    fn the_start_time_is_read_behind_a_name_with_brackets_and_blanks() {
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 9 9";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time(&stat.replace(" S ", " Z ")), None);
    }

    #[test]
    fn a_process_that_does_not_get_ready_shows_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path(), Interrupt::default()).unwrap();
        let launch = Launch::new("sulker", "/bin/sh").args(["-c", "echo no mood; sleep 60"]);
        let mut process = Process::spawn(&state, launch).unwrap();
        assert_eq!(state.processes().len(), 1);
        let error = process
            .wait_until(Duration::from_millis(500), || Ok(false))
            .unwrap_err();
        assert!(error.to_string().contains("no mood"), "{error}");
        assert!(process.is_running().unwrap());
        process.kill_9().unwrap();
        assert!(!process.is_running().unwrap());
        assert!(state.processes().is_empty());
        process.restart().unwrap();
        assert!(!process.terminate(Duration::from_secs(5)).unwrap());
    }

    #[test]
    fn an_identity_of_an_earlier_process_with_the_same_number_is_never_signalled() {
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let mut earlier = Identity::of(child.id()).unwrap();
        earlier.started -= 1;
        earlier.signal("KILL", false).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        Identity::of(child.id())
            .unwrap()
            .signal("KILL", false)
            .unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn down_ends_what_a_dead_owner_left_and_removes_only_what_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("state");
        let state = State::open(&root, Interrupt::default()).unwrap();
        let launch = Launch::new("orphan", "/bin/sleep").arg("60");
        let mut process = Process::spawn(&state, launch).unwrap();
        let removed = crate::state::remove(&root, Duration::from_secs(1)).unwrap();
        assert_eq!(removed.ended, ["orphan"]);
        assert!(!root.exists());
        let (child, _) = process.running.as_mut().unwrap();
        assert!(!child.wait().unwrap().success());
        std::mem::forget(process);

        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("thesis.txt"), "years of work").unwrap();
        assert!(crate::state::remove(&root, Duration::from_secs(1)).is_err());
        assert!(State::open(&root, Interrupt::default()).is_err());
        assert!(root.join("thesis.txt").exists());
    }
}
