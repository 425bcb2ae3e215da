//! What the files of an update say about it: the distribution point reads the changelog inside a
//! package, which the catalog of an apt archive does not have.

use muster_proto::catalog::Severity;
use muster_proto::content::FileStatus;

/// Most ids that are believed of one file.
const MAX_CVES: usize = 1_000;

/// What one file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) sha256: Vec<u8>,
    pub(crate) severity: Severity,
    pub(crate) cve_ids: Vec<String>,
}

impl Facts {
    /// What is new in the status of a file; `None` when it says nothing.
    pub(crate) fn of(file: &FileStatus) -> Option<Self> {
        let ids = file.cve_ids.iter().filter(|id| is_cve(id)).take(MAX_CVES);
        let facts = Self {
            sha256: file.sha256.to_vec(),
            severity: severity(&file.urgency),
            cve_ids: ids.cloned().collect(),
        };
        let silent = facts.severity == Severity::Unspecified && facts.cve_ids.is_empty();
        (!silent).then_some(facts)
    }
}

/// Debian's urgency as our severity.
fn severity(urgency: &str) -> Severity {
    match urgency {
        "low" => Severity::Low,
        "medium" => Severity::Moderate,
        "high" => Severity::Important,
        "emergency" | "critical" => Severity::Critical,
        _ => Severity::Unspecified,
    }
}

/// `CVE-`, a year, and four to nineteen digits.
fn is_cve(id: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    id.strip_prefix("CVE-")
        .and_then(|id| id.split_once('-'))
        .is_some_and(|(year, number)| {
            year.len() == 4 && digits(year) && (4..=19).contains(&number.len()) && digits(number)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(urgency: &str, ids: &[&str]) -> FileStatus {
        FileStatus {
            urgency: urgency.to_owned(),
            cve_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn urgency_becomes_severity_and_only_ids_are_believed() {
        let odd = ["CVE-2024-12345", "CVE-24-1", "x", "CVE-2024-1\u{1b}[2J", ""];
        let facts = Facts::of(&status("high", &odd)).unwrap();
        assert_eq!(facts.severity, Severity::Important);
        assert_eq!(facts.cve_ids, ["CVE-2024-12345"]);
        assert_eq!(
            Facts::of(&status("critical", &[])).unwrap().severity,
            Severity::Critical
        );
    }

    #[test]
    fn most_files_say_nothing() {
        assert_eq!(Facts::of(&status("", &[])), None);
        assert_eq!(Facts::of(&status("urgent!", &["no id"])), None);
    }
}
