//! Where this repository is, and how its tools are run.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use muster_local::Interrupt;
use muster_local::packages::{Install, find_program};
use muster_local::process::Identity;
use serde::Deserialize;

/// How long a tool may clean up after Ctrl-C before its process group is killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The repository this program was built from.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    packages: Vec<Package>,
    interrupt: Interrupt,
}

/// A package of the workspace, as cargo describes it.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

/// What a package depends on.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`, or nothing for a normal dependency.
    pub(crate) kind: Option<String>,
    /// Set for packages of the workspace.
    pub(crate) path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
    packages: Vec<Package>,
}

/// How programs are compiled.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Fast to build; what hashes, decompresses and encrypts is optimised all the same
    #[default]
    Dev,
    /// Fast to run
    Release,
}

impl Workspace {
    /// Asks cargo about the workspace, and lets Ctrl-C and `kill` set the interrupt from now on.
    pub(crate) fn open() -> Result<Self> {
        let interrupt = Interrupt::default();
        for signal in [
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
        ] {
            signal_hook::flag::register(signal, interrupt.flag())
                .context("cannot listen for Ctrl-C")?;
        }
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let output = Command::new(cargo_program())
            .args([
                "metadata",
                "--format-version",
                "1",
                "--no-deps",
                "--manifest-path",
            ])
            .arg(manifest)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", output.status);
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            packages: metadata.packages,
            interrupt,
        })
    }

    /// The folder of the repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The packages of the workspace.
    pub(crate) fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// What Ctrl-C sets.
    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Where tools that we install for ourselves are kept.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Where a profile's programs are after a build.
    pub(crate) fn programs(&self, profile: Profile) -> PathBuf {
        self.target.join(match profile {
            Profile::Dev => "debug",
            Profile::Release => "release",
        })
    }

    /// The default state folder of `up` and `demo`, and the parent of those of test runs.
    pub(crate) fn states(&self) -> PathBuf {
        self.root.join(".muster")
    }

    /// Builds every program of the workspace.
    pub(crate) fn build(&self, profile: Profile) -> Result<()> {
        let mut command = self.cargo();
        command.args(["build", "--workspace", "--locked"]);
        if profile == Profile::Release {
            command.arg("--release");
        }
        self.run(&mut command)
    }

    /// cargo, to be run in the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root);
        command
    }

    /// Runs a tool to its end, its output on our terminal. On Ctrl-C it is asked to stop, once,
    /// together with everything it started.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let name = describe(command);
        // An own process group: the terminal's Ctrl-C reaches us alone, and a `kill` of us
        // reaches the tool as well.
        let mut child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let identity = Identity::of(child.id());
        let mut asked: Option<Instant> = None;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            match asked {
                None if self.interrupt.is_set() => {
                    if let Some(identity) = &identity {
                        identity.signal("INT", true)?;
                    }
                    asked = Some(Instant::now());
                }
                Some(since) if since.elapsed() > PATIENCE => {
                    if let Some(identity) = &identity {
                        identity.signal("KILL", true)?;
                    }
                }
                None | Some(_) => {}
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if asked.is_some() {
            bail!("interrupted");
        }
        if !status.success() {
            bail!("{name}: {status}");
        }
        Ok(())
    }
}

/// The choice of `--no-install`.
#[derive(clap::Args)]
pub(crate) struct InstallArgs {
    /// Do not install missing packages of the system: name the command and stop
    #[arg(long)]
    no_install: bool,
}

impl InstallArgs {
    pub(crate) fn choice(&self) -> Install {
        if self.no_install {
            Install::No
        } else {
            Install::Yes
        }
    }
}

/// Whether cargo has this subcommand.
pub(crate) fn has_subcommand(name: &str) -> bool {
    find_program(&format!("cargo-{name}")).is_some()
}

/// One line of progress.
pub(crate) fn say(line: &str) {
    println!("xtask: {line}");
}

fn cargo_program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
