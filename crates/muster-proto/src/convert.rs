//! Between the wire and the domain. Messages come from outside: everything is checked
//! here, and an error names the field.

use jiff::Timestamp;
use muster_domain::rule::{Comparison, MAX_RULE_DEPTH, Rule};
use muster_stream::{MAX_RANGES, SerialRange, Wanted, Wish};

use crate::{catalog as pb, state};

/// A field of a message that cannot be what it should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("field {field}: {why}")]
pub struct InvalidField {
    /// Path of the field in the message.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl InvalidField {
    /// A complaint about one field.
    pub fn new(field: &'static str, why: impl ToString) -> Self {
        Self {
            field,
            why: why.to_string(),
        }
    }
}

/// A time for the wire.
pub fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    // jiff keeps the sign of the nanoseconds, protobuf wants them positive.
    let nanos = time.subsec_nanosecond();
    let (seconds, nanos) = if nanos < 0 {
        (time.as_second() - 1, nanos + 1_000_000_000)
    } else {
        (time.as_second(), nanos)
    };
    prost_types::Timestamp { seconds, nanos }
}

/// A time from the wire; refused outside the years that jiff and PostgreSQL can hold.
pub fn from_timestamp(
    field: &'static str,
    time: &prost_types::Timestamp,
) -> Result<Timestamp, InvalidField> {
    Timestamp::new(time.seconds, time.nanos).map_err(|e| InvalidField::new(field, e))
}

/// A length of time for the wire.
pub fn to_duration(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A length of time from the wire; negative ones are refused.
pub fn from_duration(
    field: &'static str,
    duration: &prost_types::Duration,
) -> Result<std::time::Duration, InvalidField> {
    let seconds = u64::try_from(duration.seconds);
    let nanos = u32::try_from(duration.nanos);
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => {
            Ok(std::time::Duration::new(seconds, nanos))
        }
        _ => Err(InvalidField::new(field, "it must not be negative")),
    }
}

/// A wish for the wire.
pub fn to_wish(wish: &Wish) -> state::Wish {
    let (kind, ranges) = match &wish.wanted {
        Wanted::Ranges(ranges) => (state::WishKind::Ranges, ranges.as_slice()),
        Wanted::Full => (state::WishKind::Full, &[][..]),
        Wanted::Register => (state::WishKind::Register, &[][..]),
        Wanted::RenewIdentity => (state::WishKind::RenewIdentity, &[][..]),
    };
    let range = |range: &SerialRange| state::SerialRange {
        first: range.first,
        last: range.last,
    };
    state::Wish {
        kind: kind.into(),
        epoch: wish.epoch,
        ranges: ranges.iter().map(range).collect(),
    }
}

/// A wish from the wire; `None` for none, and for a kind that only a newer client understands.
pub fn from_wish(wish: &state::Wish) -> Result<Option<Wish>, InvalidField> {
    let wanted = match state::WishKind::try_from(wish.kind) {
        Ok(state::WishKind::NoneUnspecified) | Err(_) => return Ok(None),
        Ok(state::WishKind::Ranges) => Wanted::Ranges(ranges(&wish.ranges)?),
        Ok(state::WishKind::Full) => Wanted::Full,
        Ok(state::WishKind::Register) => Wanted::Register,
        Ok(state::WishKind::RenewIdentity) => Wanted::RenewIdentity,
    };
    let epoch = wish.epoch;
    Ok(Some(Wish { epoch, wanted }))
}

fn ranges(ranges: &[state::SerialRange]) -> Result<Vec<SerialRange>, InvalidField> {
    let wrong = |why| InvalidField::new("wish.ranges", why);
    if ranges.is_empty() || ranges.len() > MAX_RANGES {
        return Err(wrong("it must be 1 to 32"));
    }
    let mut after = 0;
    let mut read = Vec::with_capacity(ranges.len());
    for &state::SerialRange { first, last } in ranges {
        if first <= after || last < first {
            return Err(wrong("they must be ascending"));
        }
        after = last;
        read.push(SerialRange { first, last });
    }
    Ok(read)
}

/// A rule from the wire; refused when it is empty or deeper than [`MAX_RULE_DEPTH`].
pub fn rule(message: &pb::Rule) -> Result<Rule, InvalidField> {
    rule_at(message, 1)
}

fn rule_at(message: &pb::Rule, depth: usize) -> Result<Rule, InvalidField> {
    use pb::rule::Kind;
    if depth > MAX_RULE_DEPTH {
        return Err(InvalidField::new(
            "rule",
            format!("deeper than {MAX_RULE_DEPTH}"),
        ));
    }
    let list = |list: &pb::RuleList| -> Result<Vec<Rule>, InvalidField> {
        list.rules
            .iter()
            .map(|rule| rule_at(rule, depth + 1))
            .collect()
    };
    let kind = message
        .kind
        .as_ref()
        .ok_or_else(|| InvalidField::new("rule", "it is empty"))?;
    Ok(match kind {
        Kind::Constant(value) => Rule::Constant(*value),
        Kind::All(rules) => Rule::All(list(rules)?),
        Kind::Any(rules) => Rule::Any(list(rules)?),
        Kind::Not(inner) => Rule::Not(Box::new(rule_at(inner, depth + 1)?)),
        Kind::PackageInstalled(p) => Rule::PackageInstalled {
            package: p.package.clone(),
            architecture: some(&p.architecture),
        },
        Kind::PackageVersion(p) => Rule::PackageVersion {
            package: p.package.clone(),
            architecture: some(&p.architecture),
            comparison: comparison(p.comparison())?,
            version: p.version.clone(),
        },
        Kind::Architecture(architecture) => Rule::Architecture(architecture.clone()),
        Kind::OsRelease(os) => Rule::OsRelease {
            id: os.id.clone(),
            version_id: some(&os.version_id),
        },
        Kind::FileExists(file) => Rule::FileExists(file.path.clone()),
    })
}

fn comparison(message: pb::Comparison) -> Result<Comparison, InvalidField> {
    Ok(match message {
        pb::Comparison::Unspecified => {
            return Err(InvalidField::new(
                "rule.package_version.comparison",
                "it is unspecified",
            ));
        }
        pb::Comparison::Less => Comparison::Less,
        pb::Comparison::LessOrEqual => Comparison::LessOrEqual,
        pb::Comparison::Equal => Comparison::Equal,
        pb::Comparison::GreaterOrEqual => Comparison::GreaterOrEqual,
        pb::Comparison::Greater => Comparison::Greater,
    })
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use muster_domain::states;

    use super::*;
    use crate::state as wire;

    #[test]
    fn a_wish_survives_the_wire_and_a_wrong_one_names_its_field() {
        let range = |first, last| SerialRange { first, last };
        for wanted in [
            Wanted::Ranges(vec![range(1, 1), range(3, 9)]),
            Wanted::Full,
            Wanted::Register,
            Wanted::RenewIdentity,
        ] {
            let wish = Wish { epoch: 3, wanted };
            assert_eq!(from_wish(&to_wish(&wish)).unwrap(), Some(wish));
        }
        for ranges in [vec![], vec![range(2, 1)], vec![range(1, 5), range(5, 6)]] {
            let wanted = Wanted::Ranges(ranges);
            let error = from_wish(&to_wish(&Wish { epoch: 3, wanted })).unwrap_err();
            assert_eq!(error.field, "wish.ranges");
        }
        let unknown = state::Wish {
            kind: 99,
            ..Default::default()
        };
        assert_eq!(from_wish(&unknown).unwrap(), None);
    }

    /// Holds a wire enum against its domain enum: the same ids, and none missing.
    macro_rules! same_ids {
        ($wire:ty, $domain:ty, $ids:expr) => {
            let ids: Vec<i32> = $ids;
            assert_eq!(<$domain>::ALL.len(), ids.len(), stringify!($domain));
            for (id, state) in ids.iter().zip(<$domain>::ALL) {
                assert_eq!(i32::from(state.id()), *id, "{state}");
                assert!(<$wire>::try_from(*id).is_ok(), "{} {id}", stringify!($wire));
            }
            let next = i32::try_from(ids.len()).unwrap();
            assert!(
                <$wire>::try_from(next).is_err(),
                "{} has more",
                stringify!($wire)
            );
        };
    }

    #[test]
    fn states_have_the_ids_of_the_source_on_the_wire_and_in_the_domain() {
        same_ids!(wire::UpdateDetection, states::Detection, (0..=3).collect());
        same_ids!(
            wire::UpdateEnforcement,
            states::UpdateEnforcement,
            (0..=14).collect()
        );
        same_ids!(
            wire::DeploymentEnforcement,
            states::DeploymentEnforcement,
            (0..=12).collect()
        );
        same_ids!(
            wire::DeploymentEvaluation,
            states::DeploymentEvaluation,
            (0..=3).collect()
        );
        same_ids!(
            wire::DeploymentCompliance,
            states::DeploymentCompliance,
            (0..=3).collect()
        );
        same_ids!(wire::UpdateSourceScan, states::Scan, (0..=6).collect());
    }

    #[test]
    fn every_name_has_the_number_of_semantics_2_1() {
        let update = [
            ("STARTED", 1),
            ("WAITING_FOR_CONTENT", 2),
            ("WAITING_FOR_ANOTHER_INSTALLATION", 3),
            ("WAITING_FOR_MAINTENANCE_WINDOW", 4),
            ("RESTART_REQUIRED_BEFORE_INSTALLING", 5),
            ("GENERAL_FAILURE", 6),
            ("PENDING_INSTALLATION", 7),
            ("INSTALLING", 8),
            ("PENDING_RESTART", 9),
            ("SUCCESSFULLY_INSTALLED", 10),
            ("FAILED_TO_INSTALL", 11),
            ("DOWNLOADING", 12),
            ("DOWNLOADED", 13),
            ("FAILED_TO_DOWNLOAD", 14),
        ];
        for (name, id) in update {
            let state =
                wire::UpdateEnforcement::from_str_name(&format!("UPDATE_ENFORCEMENT_{name}"));
            assert_eq!(state.map(|s| s as i32), Some(id), "{name}");
        }
        let deployment = [
            ("INSTALLING", 1),
            ("WAITING_FOR_RESTART", 2),
            ("WAITING_FOR_ANOTHER_INSTALLATION", 3),
            ("SUCCESSFULLY_INSTALLED", 4),
            ("PENDING_RESTART", 5),
            ("FAILED_TO_INSTALL", 6),
            ("DOWNLOADING", 7),
            ("DOWNLOADED", 8),
            ("FAILED_TO_DOWNLOAD", 9),
            ("WAITING_FOR_MAINTENANCE_WINDOW", 10),
            ("WAITING_FOR_ORCHESTRATION", 11),
            ("WAITING_FOR_SUPERSEDING_UPDATE", 12),
        ];
        for (name, id) in deployment {
            let state = wire::DeploymentEnforcement::from_str_name(&format!(
                "DEPLOYMENT_ENFORCEMENT_{name}"
            ));
            assert_eq!(state.map(|s| s as i32), Some(id), "{name}");
        }
        let rest = [
            (wire::UpdateDetection::NotRequired as i32, 1),
            (wire::UpdateDetection::Required as i32, 2),
            (wire::UpdateDetection::Installed as i32, 3),
            (wire::DeploymentEvaluation::Activated as i32, 1),
            (wire::DeploymentEvaluation::Succeeded as i32, 2),
            (wire::DeploymentEvaluation::Failed as i32, 3),
            (wire::DeploymentCompliance::Compliant as i32, 1),
            (wire::DeploymentCompliance::NonCompliant as i32, 2),
            (wire::DeploymentCompliance::Conflict as i32, 3),
            (wire::UpdateSourceScan::WaitingForContent as i32, 1),
            (wire::UpdateSourceScan::Running as i32, 2),
            (wire::UpdateSourceScan::Completed as i32, 3),
            (wire::UpdateSourceScan::PendingRetry as i32, 4),
            (wire::UpdateSourceScan::Failed as i32, 5),
            (wire::UpdateSourceScan::CompletedWithErrors as i32, 6),
            (wire::Topic::SumAssignmentCompliance as i32, 300),
            (wire::Topic::SumAssignmentEnforcement as i32, 301),
            (wire::Topic::SumAssignmentEvaluation as i32, 302),
            (wire::Topic::SumCiDetection as i32, 400),
            (wire::Topic::SumCiCompliance as i32, 401),
            (wire::Topic::SumCiEnforcement as i32, 402),
            (wire::Topic::SumUpdateDetection as i32, 500),
            (wire::Topic::SumUpdateSourceScan as i32, 501),
            (wire::Topic::ResyncStateMsg as i32, 700),
            (wire::Topic::SystemHeartbeat as i32, 701),
            (wire::Topic::ClientDeployment as i32, 800),
            (wire::Topic::ClientHealth as i32, 1300),
            (wire::Priority::High as i32, 1),
            (wire::Priority::Normal as i32, 5),
            (wire::Priority::Low as i32, 10),
        ];
        for (number, id) in rest {
            assert_eq!(number, id);
        }
    }

    #[test]
    fn a_rule_that_is_too_deep_is_refused() {
        let mut message = pb::Rule {
            kind: Some(pb::rule::Kind::Constant(true)),
        };
        for _ in 0..MAX_RULE_DEPTH {
            message = pb::Rule {
                kind: Some(pb::rule::Kind::Not(Box::new(message))),
            };
        }
        assert!(rule(&message).is_err());
        assert!(rule(&pb::Rule { kind: None }).is_err());
    }

    #[test]
    fn times_before_1970_survive_the_wire() {
        let time: Timestamp = "1969-12-31T23:59:58.25Z".parse().unwrap();
        let wire = to_timestamp(time);
        assert!(wire.nanos >= 0);
        assert_eq!(from_timestamp("t", &wire), Ok(time));
    }
}
