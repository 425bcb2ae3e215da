//! `cargo xtask faults`: the stories of reliability.md in their larger form, their figures on the
//! terminal. `cargo xtask test` runs the same stories with fewer hits per failpoint.

use anyhow::Result;

use crate::workspace::{Profile, Workspace, say};

/// The stories there are, by the name of their module.
const STORIES: [&str; 10] = [
    "failpoints::",
    "agent_failpoints::",
    "link_failpoints::",
    "mangled::",
    "controls::",
    "link_controls::",
    "takeover::",
    "hierarchy::",
    "partitions::",
    "restored::",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Every failpoint: a service ends there, again and again (F-02)
    #[arg(long)]
    failpoints: bool,
    /// Reports that come twice, late, out of order, and poison between them (F-06, F-08)
    #[arg(long)]
    mangled: bool,
    /// Protections taken away, one after the other (N-01 to N-07)
    #[arg(long)]
    controls: bool,
    /// A site server that stands still or is killed, and its standby (F-14)
    #[arg(long)]
    takeover: bool,
    /// Kills all over a hierarchy while clients report (F-01), in this size: 0 are three sites and 12
    /// kills, 1 are seven sites and 120
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    tier: Option<u8>,
    /// Divides clients, reports and kills of --tier 1
    #[arg(long, default_value_t = 1)]
    scale: u32,
    /// The network between sites breaks in every way, again and again (P-01 to P-03)
    #[arg(long)]
    partitions: bool,
    /// Brokers lose everything, databases go back to backups
    #[arg(long)]
    restored: bool,
    /// How often each failpoint is hit
    #[arg(long, default_value_t = 20)]
    times: u32,
    /// Where all random choices come from: the same seed gives the same faults
    #[arg(long)]
    seed: Option<u64>,
}

/// Builds everything and runs the stories that were asked for, or all.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let chosen = [
        args.failpoints,
        args.failpoints,
        args.failpoints,
        args.mangled,
        args.controls,
        args.controls,
        args.takeover,
        args.tier.is_some(),
        args.partitions,
        args.restored,
    ];
    let all = !chosen.contains(&true);
    say("building");
    workspace.build(Profile::Dev)?;
    for (story, chosen) in STORIES.into_iter().zip(chosen) {
        if !chosen && !all {
            continue;
        }
        let mut command = workspace.cargo();
        command
            .args(["test", "--workspace", "--locked", "--test", "stories"])
            // What is left out of `cargo xtask test` for its length, too.
            .args(["--", "--nocapture", "--include-ignored", story])
            .env("MUSTER_LARGE", "1")
            .env("MUSTER_PROGRAMS", workspace.programs(Profile::Dev))
            .env("MUSTER_FAULTS", args.times.to_string())
            .env("MUSTER_TIER", args.tier.unwrap_or(0).to_string())
            .env("MUSTER_SCALE", args.scale.to_string());
        // Others have it in their names.
        let others = STORIES
            .iter()
            .filter(|it| it.len() > story.len() && it.ends_with(story));
        for other in others {
            command.args(["--skip", *other]);
        }
        if let Some(seed) = args.seed {
            command.env("MUSTER_SEED", seed.to_string());
        }
        workspace.run(&mut command)?;
    }
    Ok(())
}
