//! What can be typed. The arguments of a verb live with the verb, in [`crate::commands`]; this
//! file holds what is common, and the readers of values that several verbs take.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use jiff::{SignedDuration, Timestamp};
use muster_proto::catalog::Classification;
use muster_proto::policy::Verbosity;
use muster_proto::report::{ComplianceSort, Coverage, ErrorGrouping, ListAnswer, UpdateAnswer};
use muster_proto::state::{DeploymentEnforcement, DeploymentEvaluation, UpdateSourceScan};

use crate::commands::{
    backlog, client, collection, context, create, delete, deployment, describe, get, login, report,
    site, sync,
};
use crate::output::Format;

/// The console of Muster: does it pass muster?
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = "\
Example:
  muster login --site-server https://site.example:8443 --ca ca.pem --cert me.pem --key me.key
  muster report compliance

Names: collections, update lists, packages and deployments of other sites of the hierarchy are named
CEN/june, with the code of the site that owns them. A plain june means this site's own; when it has
none, that of another site, if only one has it. Only the owner can change a thing.

Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found, 4 not allowed, 5 conflict,
6 done in part, 7 timed out.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// What answers look like
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true)]
    pub(crate) output: Format,
    /// The site to ask, by the name of its context; by default the current one
    #[arg(long, env = "MUSTER_CONTEXT", value_name = "NAME", global = true)]
    pub(crate) context: Option<String>,
    /// How long the command may take, such as 30s; by default 60s, and for ever in a watch
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, global = true)]
    pub(crate) timeout: Option<Duration>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Remember a site and the certificate to enter it with
    #[command(after_help = "\
Example:
  muster login --site-server https://site.example:8443 --ca ca.pem --cert me.pem --key me.key")]
    Login(login::LoginArgs),
    /// Choose among the sites that were logged in to
    #[command(subcommand, after_help = "Example:\n  muster context list")]
    Context(context::ContextCommand),
    /// List things
    #[command(
        subcommand,
        after_help = "Example:\n  muster get clients --collection Pilot"
    )]
    Get(get::GetCommand),
    /// Show one thing in full
    #[command(subcommand, after_help = "Example:\n  muster describe client web-01")]
    Describe(describe::DescribeCommand),
    /// Make a collection, update list, package, deployment or enrolment token
    #[command(
        subcommand,
        after_help = "Example:\n  muster create collection Pilot --client web-01"
    )]
    Create(create::CreateCommand),
    /// Remove things, after a question
    #[command(
        subcommand,
        after_help = "Example:\n  muster delete deployment june --yes"
    )]
    Delete(delete::DeleteCommand),
    /// Ask clients for what they hold
    #[command(subcommand, after_help = "Example:\n  muster client resync web-01")]
    Client(client::ClientCommand),
    /// Change who is in a collection
    #[command(
        subcommand,
        after_help = "Example:\n  muster collection add Pilot web-01 web-02"
    )]
    Collection(collection::CollectionCommand),
    /// Synchronise the update catalog with its source
    #[command(subcommand, after_help = "Example:\n  muster sync run --watch")]
    Sync(sync::SyncCommand),
    /// Follow a deployment
    #[command(
        subcommand,
        after_help = "Example:\n  muster deployment watch june --until-done"
    )]
    Deployment(deployment::DeploymentCommand),
    /// Who complies, how far a deployment is, and what goes wrong
    #[command(
        subcommand,
        after_help = "Example:\n  muster report compliance --update-list june"
    )]
    Report(report::ReportCommand),
    /// The hierarchy of sites: invite, join, leave, and how the links are
    #[command(subcommand, after_help = "Example:\n  muster site status --watch")]
    Site(site::SiteCommand),
    /// State messages that wait to be recorded
    #[command(after_help = "Example:\n  muster backlog --watch")]
    Backlog(backlog::BacklogArgs),
    /// State messages that could not be recorded
    #[command(subcommand, after_help = "Example:\n  muster quarantine list")]
    Quarantine(backlog::QuarantineCommand),
    /// Print the completions of a shell
    #[command(after_help = "Example:\n  muster completions bash > /etc/bash_completion.d/muster")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// `now`, `+2h`, or a time as in RFC 3339.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    if text == "now" {
        return Ok(now);
    }
    if let Some(length) = text.strip_prefix('+') {
        let length = humantime::parse_duration(length).map_err(|error| error.to_string())?;
        let length = SignedDuration::try_from(length).map_err(|error| error.to_string())?;
        return now.checked_add(length).map_err(|error| error.to_string());
    }
    text.parse().map_err(|_| {
        "expected now, a distance such as +2h, or a time such as 2030-01-31T18:00:00Z".to_owned()
    })
}

/// `now`, `30d` for so long ago, or a time as in RFC 3339.
pub(crate) fn past(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    if text == "now" {
        return Ok(now);
    }
    if let Ok(length) = humantime::parse_duration(text) {
        let length = SignedDuration::try_from(length).map_err(|error| error.to_string())?;
        return now.checked_sub(length).map_err(|error| error.to_string());
    }
    text.parse().map_err(|_| {
        "expected now, how long ago such as 30d, or a time such as 2030-01-31T18:00:00Z".to_owned()
    })
}

/// Classifications of updates, as they are typed.
const CLASSIFICATIONS: [(&str, Classification); 8] = [
    ("critical", Classification::Critical),
    ("security", Classification::Security),
    ("definition", Classification::Definition),
    ("feature-pack", Classification::FeaturePack),
    ("service-pack", Classification::ServicePack),
    ("tool", Classification::Tool),
    ("update-rollup", Classification::UpdateRollup),
    ("update", Classification::Update),
];

/// What a client says of an update, as it is typed.
const UPDATE_ANSWERS: [(&str, UpdateAnswer); 5] = [
    ("installed", UpdateAnswer::Installed),
    ("required", UpdateAnswer::Required),
    ("not-required", UpdateAnswer::NotRequired),
    ("unknown", UpdateAnswer::Unknown),
    ("no-data", UpdateAnswer::NoData),
];

/// What a client says of an update list, as it is typed.
const LIST_ANSWERS: [(&str, ListAnswer); 4] = [
    ("compliant", ListAnswer::Compliant),
    ("non-compliant", ListAnswer::NonCompliant),
    ("unknown", ListAnswer::Unknown),
    ("no-data", ListAnswer::NoData),
];

/// What there is of a client, as it is typed.
const COVERAGES: [(&str, Coverage); 3] = [
    ("never-reported", Coverage::NeverReported),
    ("old-catalog", Coverage::OldCatalog),
    ("current", Coverage::Current),
];

/// Orders of a compliance report, as they are typed.
const COMPLIANCE_SORTS: [(&str, ComplianceSort); 4] = [
    ("required", ComplianceSort::Unspecified),
    ("update-no", ComplianceSort::UpdateNo),
    ("title", ComplianceSort::Title),
    ("no-data", ComplianceSort::NoData),
];

/// States of topic 302, as they are typed.
const EVALUATIONS: [(&str, DeploymentEvaluation); 4] = [
    ("unknown", DeploymentEvaluation::Unspecified),
    ("activated", DeploymentEvaluation::Activated),
    ("succeeded", DeploymentEvaluation::Succeeded),
    ("failed", DeploymentEvaluation::Failed),
];

/// States of topic 501, as they are typed.
const SCANS: [(&str, UpdateSourceScan); 7] = [
    ("unknown", UpdateSourceScan::Unspecified),
    ("waiting-for-content", UpdateSourceScan::WaitingForContent),
    ("running", UpdateSourceScan::Running),
    ("completed", UpdateSourceScan::Completed),
    ("pending-retry", UpdateSourceScan::PendingRetry),
    ("failed", UpdateSourceScan::Failed),
    (
        "completed-with-errors",
        UpdateSourceScan::CompletedWithErrors,
    ),
];

/// What errors are counted apart by, as it is typed.
const ERROR_GROUPINGS: [(&str, ErrorGrouping); 2] = [
    ("deployment", ErrorGrouping::Deployment),
    ("update", ErrorGrouping::Update),
];

/// States of topic 301, as they are typed.
const ENFORCEMENTS: [(&str, DeploymentEnforcement); 12] = [
    ("installing", DeploymentEnforcement::Installing),
    (
        "waiting-for-restart",
        DeploymentEnforcement::WaitingForRestart,
    ),
    (
        "waiting-for-another-installation",
        DeploymentEnforcement::WaitingForAnotherInstallation,
    ),
    (
        "successfully-installed",
        DeploymentEnforcement::SuccessfullyInstalled,
    ),
    ("pending-restart", DeploymentEnforcement::PendingRestart),
    ("failed-to-install", DeploymentEnforcement::FailedToInstall),
    ("downloading", DeploymentEnforcement::Downloading),
    ("downloaded", DeploymentEnforcement::Downloaded),
    (
        "failed-to-download",
        DeploymentEnforcement::FailedToDownload,
    ),
    (
        "waiting-for-maintenance-window",
        DeploymentEnforcement::WaitingForMaintenanceWindow,
    ),
    (
        "waiting-for-orchestration",
        DeploymentEnforcement::WaitingForOrchestration,
    ),
    (
        "waiting-for-superseding-update",
        DeploymentEnforcement::WaitingForSupersedingUpdate,
    ),
];

/// Reads a classification of updates: `security`.
pub(crate) fn classification() -> impl TypedValueParser<Value = Classification> {
    named(&CLASSIFICATIONS)
}

/// Reads a state of topic 301: `failed-to-install`.
pub(crate) fn enforcement() -> impl TypedValueParser<Value = DeploymentEnforcement> {
    named(&ENFORCEMENTS)
}

/// Reads what a client says of an update: `no-data`.
pub(crate) fn update_answer() -> impl TypedValueParser<Value = UpdateAnswer> {
    named(&UPDATE_ANSWERS)
}

/// Reads what a client says of an update list: `non-compliant`.
pub(crate) fn list_answer() -> impl TypedValueParser<Value = ListAnswer> {
    named(&LIST_ANSWERS)
}

/// Reads what there is of a client: `never-reported`.
pub(crate) fn coverage() -> impl TypedValueParser<Value = Coverage> {
    named(&COVERAGES)
}

/// Reads the order of a compliance report: `title`.
pub(crate) fn compliance_sort() -> impl TypedValueParser<Value = ComplianceSort> {
    named(&COMPLIANCE_SORTS)
}

/// Which states of a deployment clients send, as it is typed.
const VERBOSITIES: [(&str, Verbosity); 4] = [
    ("none", Verbosity::NoneUnspecified),
    ("errors", Verbosity::Errors),
    ("successes", Verbosity::Successes),
    ("all", Verbosity::All),
];

/// Reads a verbosity: `errors`.
pub(crate) fn verbosity() -> impl TypedValueParser<Value = Verbosity> {
    named(&VERBOSITIES)
}

/// Reads a state of topic 302: `failed`.
pub(crate) fn evaluation() -> impl TypedValueParser<Value = DeploymentEvaluation> {
    named(&EVALUATIONS)
}

/// Reads a state of topic 501: `completed-with-errors`.
pub(crate) fn scan() -> impl TypedValueParser<Value = UpdateSourceScan> {
    named(&SCANS)
}

/// Reads what errors are counted apart by: `update`.
pub(crate) fn error_grouping() -> impl TypedValueParser<Value = ErrorGrouping> {
    named(&ERROR_GROUPINGS)
}

/// Values of the wire under the words that people type.
fn named<T>(values: &'static [(&'static str, T)]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(values.iter().map(|(name, _)| *name)).try_map(move |typed| {
        let found = values.iter().find(|(name, _)| *name == typed);
        found
            .map(|(_, value)| *value)
            .ok_or("not one of the possible values")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::text::word;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_contradict_nothing() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn look(command: &clap::Command, path: &str) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Example:\n  muster "),
                "{path} has no example"
            );
            assert!(
                command.get_about().is_some(),
                "{path} does not say what it does"
            );
            for inner in command.get_subcommands() {
                look(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        look(&Cli::command(), "muster");
    }

    #[test]
    fn every_example_can_be_typed() {
        fn look(command: &clap::Command) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            for line in help.lines().filter_map(|line| line.strip_prefix("  ")) {
                let typed = line.split(" > ").next().unwrap_or(line);
                let words = typed.split_whitespace().map(|word| word.trim_matches('\''));
                Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }

    #[test]
    fn every_value_of_the_wire_has_the_word_that_tables_show() {
        for (name, value) in CLASSIFICATIONS {
            assert_eq!(name, word(value.as_str_name(), "CLASSIFICATION_"));
        }
        for (name, value) in ENFORCEMENTS {
            assert_eq!(name, word(value.as_str_name(), "DEPLOYMENT_ENFORCEMENT_"));
        }
        for (name, value) in UPDATE_ANSWERS {
            assert_eq!(name, word(value.as_str_name(), "UPDATE_ANSWER_"));
        }
        for (name, value) in LIST_ANSWERS {
            assert_eq!(name, word(value.as_str_name(), "LIST_ANSWER_"));
        }
        for (name, value) in COVERAGES {
            assert_eq!(name, word(value.as_str_name(), "COVERAGE_"));
        }
        for (name, value) in &COMPLIANCE_SORTS[1..] {
            assert_eq!(*name, word(value.as_str_name(), "COMPLIANCE_SORT_"));
        }
        for (name, value) in &EVALUATIONS[1..] {
            assert_eq!(*name, word(value.as_str_name(), "DEPLOYMENT_EVALUATION_"));
        }
        for (name, value) in &SCANS[1..] {
            assert_eq!(*name, word(value.as_str_name(), "UPDATE_SOURCE_SCAN_"));
        }
        for (name, value) in ERROR_GROUPINGS {
            assert_eq!(name, word(value.as_str_name(), "ERROR_GROUPING_"));
        }
        assert!(DeploymentEvaluation::try_from(4).is_err());
        assert!(UpdateSourceScan::try_from(7).is_err() && ErrorGrouping::try_from(3).is_err());
        assert!(UpdateAnswer::try_from(6).is_err() && ListAnswer::try_from(5).is_err());
        assert!(Coverage::try_from(4).is_err() && ComplianceSort::try_from(4).is_err());
        assert!(
            Classification::try_from(9).is_err(),
            "a classification has no word"
        );
        assert!(
            DeploymentEnforcement::try_from(13).is_err(),
            "a state has no word"
        );
    }

    #[test]
    fn a_moment_is_now_a_distance_or_a_time() {
        let second = |text: &str| moment(text).unwrap().as_second();
        let now = Timestamp::now().as_second();
        assert!((second("now") - now).abs() < 5);
        assert!((second("+2h") - now - 7_200).abs() < 5);
        assert_eq!(second("2001-09-09T01:46:40Z"), 1_000_000_000);
        assert_eq!(second("2001-09-09T03:46:40+02:00"), 1_000_000_000);
        for bad in ["", "tomorrow", "+", "+2 parsecs", "2001-09-09", "-1h"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
