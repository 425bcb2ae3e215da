//! Whether somebody works with the machine's packages right now: apt and dpkg hold record locks on
//! two files for as long as they do.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::time::Duration;

use muster_domain::error_code;
use rustix::fs::{FlockOperation, fcntl_lock};
use tokio::time::Instant;

use super::DpkgRoot;
use crate::Failure;

/// `lock-frontend` is apt's from its first look to its last; `lock` is dpkg's own.
const FILES: [&str; 2] = ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock"];
/// How often they are tried again.
const INTERVAL: Duration = Duration::from_secs(2);

/// Waits until nobody works with the packages. An apt-get that outlived the agent that started it
/// is somebody, too: nothing of what it uses may be touched before it ended.
///
/// # Errors
/// `PACKAGE_MANAGER_BUSY` when that takes longer than `wait`.
pub(super) async fn wait_until_free(root: &DpkgRoot, wait: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + wait;
    loop {
        let held = FILES
            .into_iter()
            .find_map(|file| match is_held(root, file) {
                Ok(held) => held.then_some(Ok(file)),
                Err(error) => Some(Err(Failure::disk(&format!("look at {file}"), &error))),
            })
            .transpose()?;
        let Some(file) = held else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            let detail = format!("somebody else holds {file}");
            return Err(Failure::new(error_code::PACKAGE_MANAGER_BUSY, detail));
        }
        tokio::time::sleep(INTERVAL.min(wait)).await;
    }
}

/// Takes the lock and gives it back at once: it is the only question that record locks answer.
fn is_held(root: &DpkgRoot, file: &str) -> io::Result<bool> {
    let opened = OpenOptions::new().write(true).open(root.inside(file));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let Err(error) = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) else {
        return Ok(false);
    };
    let error = io::Error::from(error);
    let held = [ErrorKind::WouldBlock, ErrorKind::PermissionDenied].contains(&error.kind());
    if held { Ok(true) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::download::Content;
    use crate::provider::{Job, Provider};

    const HOLDER: &str = "MUSTER_TEST_HOLDS_LOCK";

    /// Not a test of its own: the process that holds the lock for the one below. Record locks of
    /// one process never stand in its own way.
    #[test]
    fn hold_a_lock_for_another_test() {
        let Some(file) = std::env::var_os(HOLDER) else {
            return;
        };
        let file = OpenOptions::new().write(true).open(file).unwrap();
        fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }

    #[tokio::test]
    async fn nothing_is_touched_while_an_apt_that_outlived_its_agent_works() {
        let dir = tempfile::tempdir().unwrap();
        let root = DpkgRoot {
            lock_wait: Duration::from_millis(50),
            ..DpkgRoot::new(dir.path(), None)
        };
        let lock = root.inside(FILES[0]);
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        fs::write(&lock, "").unwrap();
        let archives = root.inside("/var/lib/muster/apt/cache/archives");
        fs::create_dir_all(&archives).unwrap();
        let package = archives.join("bash_5.2-1_amd64.deb");
        fs::write(&package, "in use").unwrap();
        wait_until_free(&root, Duration::ZERO).await.unwrap();

        let mut holder = Command::new(std::env::current_exe().unwrap())
            .arg("hold_a_lock_for_another_test")
            .env(HOLDER, &lock)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !is_held(&root, FILES[0]).unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let recovered = root.recover().await;
        let content = Content::open(&dir.path().join("cache"), None).unwrap();
        let refused =
            super::super::install::try_install(&root, &Job::of(dir.path()), &content).await;
        holder.kill().unwrap();
        holder.wait().unwrap();
        for failure in [recovered.unwrap_err(), refused.unwrap_err()] {
            assert_eq!(failure.code, error_code::PACKAGE_MANAGER_BUSY, "{failure}");
        }
        assert!(package.exists());
        assert!(!root.inside("/var/lib/muster/apt/etc").exists());
        wait_until_free(&root, Duration::ZERO).await.unwrap();
    }
}
