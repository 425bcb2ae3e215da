//! `cargo xtask up`: one whole site on this machine, or a hierarchy of them, in the foreground.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use muster_local::hierarchy::{Member, Tree};
use muster_local::packages::Programs;
use muster_local::site::{Plan, Setting};
use muster_local::{Hierarchy, Service, Site, State, packages};

use crate::workspace::{InstallArgs, Profile, Workspace, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    install: InstallArgs,
    /// The state folder [default: .muster/site]
    #[arg(long)]
    state: Option<PathBuf>,
    /// Start the sites that this file describes instead of one, and join them, such as
    /// deploy/hierarchies/small.toml
    #[arg(long, value_name = "FILE")]
    sites: Option<PathBuf>,
    /// How the services are compiled
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

/// Starts the site and waits for Ctrl-C. What it holds is there again at the next `up`; `down`
/// removes it.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let begin = Instant::now();
    let servers = packages::ensure(args.install.choice(), &say)?;
    say("building");
    workspace.build(args.profile)?;
    let root = args
        .state
        .clone()
        .unwrap_or_else(|| workspace.states().join("site"));
    if let Some(file) = &args.sites {
        let tree = Tree::read(file)?;
        return run_tree(workspace, args.profile, &servers, &root, tree);
    }
    let state = State::open(&root, workspace.interrupt().clone())?;
    let mut site = Site::start(
        &state,
        &servers,
        plan(workspace, args.profile, Vec::new()),
        &say,
    )?;
    say(&format!(
        "the site {} is up after {} s",
        site.code(),
        begin.elapsed().as_secs()
    ));
    describe(&site);
    say("Ctrl-C stops it; `cargo xtask down` removes what it has stored");
    let outcome = watch(workspace, &mut site);
    say("stopping");
    site.stop()?;
    outcome
}

/// As [`run`], with several sites.
fn run_tree(
    workspace: &Workspace,
    profile: Profile,
    servers: &Programs,
    root: &Path,
    tree: Tree,
) -> Result<()> {
    let begin = Instant::now();
    let of = |member: &Member| Plan {
        code: member.code.clone(),
        name: member.name.clone(),
        ..plan(workspace, profile, Vec::new())
    };
    let interrupt = workspace.interrupt();
    let mut hierarchy = Hierarchy::start(root, interrupt, servers, tree, &Service::ALL, &of, &say)?;
    say(&format!(
        "{} sites are up after {} s",
        hierarchy.sites.len(),
        begin.elapsed().as_secs()
    ));
    for (member, site) in &hierarchy.sites {
        println!("\n{} {}", member.code, member.name);
        describe(site);
    }
    say("`muster site list --tree` draws them, `muster site status` shows the links");
    say("Ctrl-C stops them; `cargo xtask down` removes what they have stored");
    let outcome = watch_tree(workspace, &mut hierarchy);
    say("stopping");
    hierarchy.stop()?;
    outcome
}

/// Waits for Ctrl-C, or for a server that ends without being asked to.
pub(crate) fn watch_tree(workspace: &Workspace, hierarchy: &mut Hierarchy) -> Result<()> {
    while !workspace.interrupt().is_set() {
        let fallen = hierarchy.sites.iter_mut().find_map(|(member, site)| {
            let service = site.fallen().ok().flatten()?;
            Some((member.code.clone(), service))
        });
        if let Some((code, service)) = fallen {
            bail!("the {} of {code} has ended", service.name());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The site that `up` and `demo` start.
pub(crate) fn plan(workspace: &Workspace, profile: Profile, settings: Vec<Setting>) -> Plan {
    Plan {
        can_be_parent: false,
        code: "P01".to_owned(),
        name: "Head office".to_owned(),
        programs: workspace.programs(profile),
        templates: workspace.root().join("deploy/config"),
        settings,
    }
}

/// Prints how to use it and where to look.
pub(crate) fn describe(site: &Site) {
    println!(
        "\n    export MUSTER_CONFIG={}",
        site.console_config().display()
    );
    println!("    {} get clients\n", site.program("muster").display());
    println!(
        "    {:24}{}",
        "agents enrol at",
        site.grpc(Service::ManagementPoint)
    );
    println!("    {:24}{}", "with the CA", site.ca().display());
    for service in Service::ALL {
        println!("    {:24}{}/metrics", service.name(), site.admin(service));
    }
    println!("    {:24}{}", "rabbitmq", site.rabbit_metrics());
    println!(
        "    {:24}{}\n",
        "logs",
        site.state().root().join("logs").display()
    );
}

/// Waits for Ctrl-C, or for a server that ends without being asked to.
pub(crate) fn watch(workspace: &Workspace, site: &mut Site) -> Result<()> {
    while !workspace.interrupt().is_set() {
        if let Some(service) = site.fallen()? {
            let log = site.state().log(service.name());
            bail!("the {} has ended; see {}", service.name(), log.display());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
