//! What the site wants of this client. A policy counts only when a key of the enrolment signed
//! it, it names this client and site, and it is not older than the one before.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use jiff::Timestamp;
use muster_domain::{DeploymentId, UpdateNo};
use muster_proto::client::SignedPolicy;
use muster_proto::policy::policy_service_client::PolicyServiceClient;
use muster_proto::policy::{GetPolicyRequest, Policy};
use muster_proto::state::ClientHealth;
use muster_runtime::{Role, faults};
use muster_stream::Heard;
use prost::Message;
use sha2::{Digest, Sha256};
use std::time::Duration;

use crate::agent::Agent;
use crate::priority::tell_more;
use crate::store::{Kind, Registration, meta};
use crate::{Error, wire};

/// What is signed: this, then the encoded policy.
pub const CONTEXT: &[u8] = b"muster-policy-v1\0";

/// Why a policy was not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// No key of the enrolment has this id.
    #[error("it is signed with a key this client does not know")]
    UnknownKey,
    /// The signature does not fit.
    #[error("its signature is not valid")]
    Signature,
    /// The bytes are no policy.
    #[error("it cannot be decoded")]
    Undecodable,
    /// It is somebody else's.
    #[error("it is for another client")]
    ForeignClient,
    /// It is another site's.
    #[error("it is for site {0}")]
    ForeignSite(String),
    /// An older policy was played back.
    #[error("its revision {found} is older than {held}, which was accepted before")]
    Rollback {
        /// Of the policy that came.
        found: u64,
        /// Of the one at hand.
        held: u64,
    },
    /// A field breaks the contract.
    #[error("field {0} is not valid")]
    Field(&'static str),
}

/// Checks a policy and opens it.
///
/// # Errors
/// The first check that fails.
pub fn verify(
    signed: &SignedPolicy,
    registration: &Registration,
    held_revision: u64,
) -> Result<Policy, Refused> {
    let key = registration
        .policy_keys
        .iter()
        .find(|key| Sha256::digest(key)[..8] == signed.key_id[..])
        .ok_or(Refused::UnknownKey)?;
    let message = [CONTEXT, &signed.policy].concat();
    UnparsedPublicKey::new(&ED25519, key)
        .verify(&message, &signed.signature)
        .map_err(|_| Refused::Signature)?;
    let policy = Policy::decode(signed.policy.clone()).map_err(|_| Refused::Undecodable)?;
    if policy.client_id != registration.client_id.as_bytes()[..] {
        return Err(Refused::ForeignClient);
    }
    if policy.site_code != registration.site_code {
        return Err(Refused::ForeignSite(policy.site_code));
    }
    if policy.revision < held_revision {
        return Err(Refused::Rollback {
            found: policy.revision,
            held: held_revision,
        });
    }
    for deployment in &policy.deployments {
        DeploymentId::from_slice(&deployment.deployment_id)
            .map_err(|_| Refused::Field("deployment_id"))?;
    }
    for file in policy.updates.iter().flat_map(|update| &update.files) {
        if file.sha256.len() != 32 {
            return Err(Refused::Field("sha256"));
        }
        if !muster_apt::packages::is_package_name(&file.package) {
            return Err(Refused::Field("package"));
        }
        if file.version.parse::<muster_apt::Version>().is_err() {
            return Err(Refused::Field("version"));
        }
        if !muster_apt::packages::is_architecture(&file.architecture) {
            return Err(Refused::Field("architecture"));
        }
    }
    for suite in &policy.suites {
        let key = suite.key.len() == 16 && suite.key.bytes().all(|b| b.is_ascii_hexdigit());
        let words = std::iter::once(&suite.suite).chain(&suite.components);
        if !key || !words.chain(&suite.architectures).all(|word| is_word(word)) {
            return Err(Refused::Field("suites"));
        }
        if !suite.signed_by.is_empty() && !is_path(&suite.signed_by) {
            return Err(Refused::Field("signed_by"));
        }
    }
    Ok(policy)
}

/// One word of a sources list: nothing that could end the word, the line or the folder.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 200
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.+/~".contains(&b))
        && !text.contains("..")
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && is_word(text)
}

/// What a poll brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polled {
    /// A policy other than the one at hand was accepted.
    pub changed: bool,
    /// When the site wants to be asked again.
    pub next_poll_in: Option<Duration>,
}

impl Agent {
    /// Asks for the policy, and takes it over when it stands all checks; goes to another site when it
    /// says so. One that does not stand them
    /// leaves the old one in force and becomes a health problem, `POLICY_REFUSED`.
    ///
    /// # Errors
    /// When no management point answers, and [`Error::PolicyRefused`].
    pub async fn poll_policy(&self) -> Result<Polled, Error> {
        let mut polled = self.ask_for_policy().await;
        if let Err(error) = &polled
            && self.renewed_after(error).await?
        {
            polled = self.ask_for_policy().await;
        }
        self.polled_or_moved(polled).await
    }

    pub(crate) async fn ask_for_policy(&self) -> Result<Polled, Error> {
        let registration = self.registration()?;
        let known = self
            .store()
            .read(|r| r.bytes(meta::POLICY_VERSION))?
            .unwrap_or_default();
        let request = GetPolicyRequest {
            known_version: known.into(),
        };
        let points = self.locations()?.management_points;
        let answer = wire::first(
            self.wire(),
            &points,
            (Role::ManagementPoint, "no policy"),
            |channel| {
                let request = request.clone();
                async move {
                    let mut client = PolicyServiceClient::new(channel)
                        .max_decoding_message_size(wire::MAX_ANSWER);
                    client.get_policy(request).await
                }
            },
        )
        .await?
        .into_inner();
        if answer.send_full_report {
            tracing::info!("the site asks for a full report");
            self.store().write(|w| w.want_full())?;
            self.urgent().notify_one();
        } else if let Heard::Send | Heard::Register = self.hear(answer.wish.as_ref())? {
            // It registers before it reports. An identity is renewed when a report is answered.
            self.urgent().notify_one();
        }
        let changed = match answer.policy {
            Some(signed) => self.take_policy(&registration, &signed)?,
            None => false,
        };
        let next_poll_in = answer
            .next_poll_in
            .and_then(|d| muster_proto::convert::from_duration("next_poll_in", &d).ok());
        Ok(Polled {
            changed,
            next_poll_in,
        })
    }

    fn take_policy(
        &self,
        registration: &Registration,
        signed: &SignedPolicy,
    ) -> Result<bool, Error> {
        let now = self.now();
        let held = self.store().read(|r| r.number(meta::POLICY_REVISION))?;
        let before = self.policy()?;
        match verify(signed, registration, held.unwrap_or(0)) {
            Ok(policy) => {
                faults::point("agent.policy.before_apply");
                self.store().write(|w| {
                    w.set_bytes(meta::POLICY, &signed.policy)?;
                    w.set_bytes(meta::POLICY_VERSION, &signed.version)?;
                    w.set_number(meta::POLICY_REVISION, policy.revision)?;
                    w.set_time(meta::POLICY_RECEIVED_AT, now)?;
                    w.clear_attempts()?;
                    tell_more(w, before.as_ref(), &policy)?;
                    w.put_message(Kind::Health, b"", &healthy(), now)
                })?;
                faults::point("agent.policy.applied");
                tracing::info!(
                    revision = policy.revision,
                    deployments = policy.deployments.len(),
                    "policy accepted"
                );
                Ok(true)
            }
            Err(refused) => {
                let problem = format!("POLICY_REFUSED: {refused}");
                tracing::error!(error = %refused, "policy refused, the old one stays");
                let health = ClientHealth {
                    healthy: false,
                    problems: vec![problem],
                    serial: 0,
                };
                let news = self
                    .store()
                    .write(|w| w.put_message(Kind::Health, b"", &health, now))?;
                if news {
                    self.urgent().notify_one();
                }
                Err(refused.into())
            }
        }
    }

    /// The policy in force; `None` before the first one.
    ///
    /// # Errors
    /// When it cannot be read back.
    pub fn policy(&self) -> Result<Option<Policy>, Error> {
        let Some(bytes) = self.store().read(|r| r.bytes(meta::POLICY))? else {
            return Ok(None);
        };
        let policy = Policy::decode(bytes.as_slice());
        policy
            .map(Some)
            .map_err(|_| Error::Saved { what: "policy" })
    }
}

pub(crate) fn healthy() -> ClientHealth {
    ClientHealth {
        healthy: true,
        problems: Vec::new(),
        serial: 0,
    }
}

/// The settings of semantics.md 2.5, from the policy or by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// 60 minutes.
    pub policy_poll_interval: Duration,
    /// 15 minutes.
    pub report_interval: Duration,
    /// 60 minutes.
    pub heartbeat_interval: Duration,
    /// 7 days.
    pub scan_interval: Duration,
    /// 2 hours.
    pub scan_jitter: Duration,
    /// 24 hours.
    pub scan_ttl: Duration,
    /// 7 days.
    pub reevaluation_interval: Duration,
    /// Whether a scheduled scan asks the update source even within the time to live.
    pub scheduled_scan_is_forced: bool,
    /// Whether anything may be installed. Without a policy: no.
    pub installs_allowed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            policy_poll_interval: HOUR,
            report_interval: Duration::from_secs(900),
            heartbeat_interval: HOUR,
            scan_interval: 168 * HOUR,
            scan_jitter: 2 * HOUR,
            scan_ttl: 24 * HOUR,
            reevaluation_interval: 168 * HOUR,
            scheduled_scan_is_forced: false,
            installs_allowed: false,
        }
    }
}

impl Settings {
    /// What a policy says; what it leaves out stays at its default. No interval is shorter than
    /// a second.
    #[must_use]
    pub fn of(policy: Option<&Policy>) -> Self {
        let defaults = Self::default();
        let Some(settings) = policy.and_then(|policy| policy.settings.as_ref()) else {
            return defaults;
        };
        let read = |field: &'static str, value: &Option<prost_types::Duration>, default| {
            let value = value.as_ref();
            value
                .and_then(|v| muster_proto::convert::from_duration(field, v).ok())
                .unwrap_or(default)
        };
        let period = |field, value: &Option<prost_types::Duration>, default| {
            read(field, value, default).max(Duration::from_secs(1))
        };
        let s = settings;
        Self {
            policy_poll_interval: period(
                "policy_poll_interval",
                &s.policy_poll_interval,
                defaults.policy_poll_interval,
            ),
            report_interval: period(
                "report_interval",
                &s.report_interval,
                defaults.report_interval,
            ),
            heartbeat_interval: period(
                "heartbeat_interval",
                &s.heartbeat_interval,
                defaults.heartbeat_interval,
            ),
            scan_interval: period("scan_interval", &s.scan_interval, defaults.scan_interval),
            scan_jitter: read("scan_jitter", &s.scan_jitter, defaults.scan_jitter),
            scan_ttl: read("scan_ttl", &s.scan_ttl, defaults.scan_ttl),
            reevaluation_interval: period(
                "reevaluation_interval",
                &s.reevaluation_interval,
                defaults.reevaluation_interval,
            ),
            scheduled_scan_is_forced: s.scheduled_scan_is_forced,
            installs_allowed: s.installs_allowed,
        }
    }
}

/// A deployment of the policy, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// When it begins to concern the client.
    pub available_at: Timestamp,
    /// When it is enforced; `None`: only a user installs it.
    pub deadline_at: Option<Timestamp>,
    /// Its updates.
    pub updates: Vec<UpdateNo>,
}

/// The deployments of a policy that [`verify`] let through.
#[must_use]
pub fn deployments(policy: &Policy) -> Vec<Deployment> {
    let time = |time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref()?;
        muster_proto::convert::from_timestamp("deployment", time).ok()
    };
    let of = |d: &muster_proto::policy::Deployment| {
        Some(Deployment {
            id: DeploymentId::from_slice(&d.deployment_id).ok()?,
            available_at: time(&d.available_at).unwrap_or(Timestamp::UNIX_EPOCH),
            deadline_at: time(&d.deadline_at),
            updates: d.update_numbers.iter().copied().map(UpdateNo).collect(),
        })
    };
    policy.deployments.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use muster_domain::ClientId;
    use muster_proto::policy::{PolicyFile, PolicySuite, PolicyUpdate};

    use super::*;

    struct Site {
        key: Ed25519KeyPair,
        registration: Registration,
    }

    impl Site {
        fn new() -> Self {
            let key = Ed25519KeyPair::generate().unwrap();
            let registration = Registration {
                client_id: ClientId::generate(),
                site_code: "P01".into(),
                epoch: 1,
                policy_keys: vec![key.public_key().as_ref().to_vec()],
            };
            Self { key, registration }
        }

        fn policy(&self, revision: u64) -> Policy {
            Policy {
                client_id: self.registration.client_id.as_bytes().to_vec().into(),
                site_code: "P01".into(),
                revision,
                ..Default::default()
            }
        }

        fn sign(&self, policy: &Policy) -> SignedPolicy {
            let policy = policy.encode_to_vec();
            let signature = self
                .key
                .sign(&[CONTEXT, &policy].concat())
                .as_ref()
                .to_vec();
            let key_id = Sha256::digest(self.key.public_key().as_ref())[..8].to_vec();
            SignedPolicy {
                policy: policy.into(),
                signature: signature.into(),
                key_id: key_id.into(),
                version: vec![1; 16].into(),
            }
        }
    }

    #[test]
    fn a_policy_of_the_site_for_this_client_is_accepted() {
        let site = Site::new();
        let policy = site.policy(5);
        assert_eq!(
            verify(&site.sign(&policy), &site.registration, 5),
            Ok(policy)
        );
    }

    #[test]
    fn a_broken_signature_is_refused() {
        let site = Site::new();
        let mut signed = site.sign(&site.policy(1));
        let mut altered = signed.policy.to_vec();
        altered.push(0);
        signed.policy = altered.into();
        assert_eq!(
            verify(&signed, &site.registration, 0),
            Err(Refused::Signature)
        );
    }

    #[test]
    fn a_key_that_was_not_given_at_enrolment_is_refused() {
        let (site, other) = (Site::new(), Site::new());
        let signed = other.sign(&site.policy(1));
        assert_eq!(
            verify(&signed, &site.registration, 0),
            Err(Refused::UnknownKey)
        );
    }

    #[test]
    fn the_policy_of_another_client_or_site_is_refused() {
        let site = Site::new();
        let mut policy = site.policy(1);
        policy.client_id = ClientId::generate().as_bytes().to_vec().into();
        assert_eq!(
            verify(&site.sign(&policy), &site.registration, 0),
            Err(Refused::ForeignClient)
        );
        let mut policy = site.policy(1);
        policy.site_code = "P02".into();
        assert_eq!(
            verify(&site.sign(&policy), &site.registration, 0),
            Err(Refused::ForeignSite("P02".into()))
        );
    }

    #[test]
    fn an_older_revision_is_refused() {
        let site = Site::new();
        assert_eq!(
            verify(&site.sign(&site.policy(4)), &site.registration, 5),
            Err(Refused::Rollback { found: 4, held: 5 })
        );
    }

    #[test]
    fn names_that_could_become_options_or_lines_are_refused() {
        let site = Site::new();
        let mut policy = site.policy(1);
        policy.updates.push(PolicyUpdate {
            files: vec![PolicyFile {
                package: "--allow-unauthenticated".into(),
                version: "1".into(),
                architecture: "amd64".into(),
                sha256: vec![0; 32].into(),
                ..Default::default()
            }],
            ..Default::default()
        });
        assert_eq!(
            verify(&site.sign(&policy), &site.registration, 0),
            Err(Refused::Field("package"))
        );
        for (suite, signed_by) in [
            ("x main\ndeb evil", ""),
            ("x", "/a] [trusted=yes"),
            ("../x", ""),
        ] {
            let mut policy = site.policy(1);
            policy.suites.push(PolicySuite {
                key: "0123456789abcdef".into(),
                suite: suite.into(),
                signed_by: signed_by.into(),
                ..Default::default()
            });
            assert!(verify(&site.sign(&policy), &site.registration, 0).is_err());
        }
    }

    #[test]
    fn settings_left_out_keep_their_documented_defaults() {
        let settings = Settings::of(Some(&Policy {
            settings: Some(muster_proto::policy::ClientSettings {
                report_interval: Some(prost_types::Duration {
                    seconds: 2,
                    nanos: 0,
                }),
                ..Default::default()
            }),
            ..Default::default()
        }));
        assert_eq!(settings.report_interval, Duration::from_secs(2));
        assert_eq!(settings.policy_poll_interval, Duration::from_secs(3600));
        assert_eq!(settings.scan_ttl, Duration::from_secs(24 * 3600));
    }
}
