//! A site in this process: management point and software update point with what a test puts in
//! them, and a table of what the site would hold after all reports it took.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use client_agent::policy::CONTEXT;
use muster_domain::states::{Detection, UpdateEnforcement};
use muster_domain::{ClientId, DeploymentId};
use muster_proto::catalog::scan_service_server::{ScanService, ScanServiceServer};
use muster_proto::catalog::{GetScanMetadataRequest, GetScanMetadataResponse};
use muster_proto::client::registration_service_server::{
    RegistrationService, RegistrationServiceServer,
};
use muster_proto::client::{
    EnrolRequest, EnrolResponse, GetLocationsRequest, GetLocationsResponse, Locations,
    RegisterRequest, RegisterResponse, RenewIdentityRequest, RenewIdentityResponse, SignedPolicy,
};
use muster_proto::policy::policy_service_server::{PolicyService, PolicyServiceServer};
use muster_proto::policy::{GetPolicyRequest, GetPolicyResponse, Policy};
use muster_proto::state::state_service_server::{StateService, StateServiceServer};
use muster_proto::state::{
    RelayReportsRequest, RelayReportsResponse, Report, ReportKind, ReportStatesRequest,
    ReportStatesResponse, Wish, WishKind,
};
use muster_runtime::auth::{self, Caller, Table};
use muster_runtime::grpc::{Handle, Server, ServerConfig};
use muster_runtime::status::{Kind, status};
use muster_runtime::tls::ca::CertificateAuthority;
use muster_runtime::{Identity, Role};
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

const CLIENT: &[Caller] = &[Caller::Role(Role::Client)];
const TABLE: Table = &[
    (
        "/muster.client.v1.RegistrationService/Enrol",
        &[Caller::Anyone],
    ),
    ("/muster.client.v1.RegistrationService/Register", CLIENT),
    (
        "/muster.client.v1.RegistrationService/RenewIdentity",
        CLIENT,
    ),
    ("/muster.client.v1.RegistrationService/GetLocations", CLIENT),
    ("/muster.policy.v1.PolicyService/GetPolicy", CLIENT),
    ("/muster.state.v1.StateService/ReportStates", CLIENT),
    ("/muster.catalog.v1.ScanService/GetScanMetadata", CLIENT),
];

/// What the site knows and what it was told.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) tokens: HashMap<String, Option<(Vec<u8>, EnrolResponse)>>,
    pub(crate) policy: Option<SignedPolicy>,
    pub(crate) full_wanted: bool,
    /// Said with the answer to the next report.
    pub(crate) wish: Option<Wish>,
    /// Said with the answer to the next poll.
    pub(crate) polled_wish: Option<Wish>,
    pub(crate) blocked: bool,
    /// Answer reports with UNAVAILABLE. `Some(true)`: after taking them, as when the answer is lost.
    pub(crate) unavailable: Option<bool>,
    pub(crate) catalog: GetScanMetadataResponse,
    pub(crate) difference: Option<GetScanMetadataResponse>,
    pub(crate) forgets_generations: bool,
    /// Answer scans with UNAVAILABLE.
    pub(crate) scans_fail: bool,
    pub(crate) scans: Vec<GetScanMetadataRequest>,
    pub(crate) reports: Vec<Report>,
    pub(crate) held: Held,
    pub(crate) identities: Identities,
    /// Clients of another site that came here, or would.
    pub(crate) arrivals: u32,
    pub(crate) arrivals_refused: bool,
}

/// Who is separated from whom.
#[derive(Default)]
pub(crate) struct Identities {
    /// Whose reports are answered with the wish for another identity.
    pub(crate) forked: Option<ClientId>,
    /// The machine that enrolled.
    pub(crate) original: Vec<u8>,
    /// Fingerprints of certificates that others took the place of.
    pub(crate) replaced: HashSet<String>,
    /// The answers by public key.
    pub(crate) answers: HashMap<Vec<u8>, RenewIdentityResponse>,
    /// Answer with UNAVAILABLE after doing what was asked, as when the answer is lost.
    pub(crate) answer_lost: bool,
}

/// What a site holds: per state the value of the highest (epoch, serial).
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) detections: BTreeMap<u32, (Stamp, Detection)>,
    pub(crate) updates: BTreeMap<(DeploymentId, u32), (Stamp, i32, i32)>,
    pub(crate) deployments: BTreeMap<DeploymentId, (Stamp, [i32; 3])>,
    pub(crate) healthy: Option<(Stamp, bool)>,
}

pub(crate) type Stamp = (u32, u64);

impl Held {
    fn apply(&mut self, report: &Report) {
        let stamp = |serial: u64| (report.epoch, serial);
        if report.kind() == ReportKind::Full {
            let last = stamp(report.last_serial);
            self.detections.retain(|_, (held, _)| *held > last);
            self.updates.retain(|_, (held, ..)| *held > last);
            self.deployments.retain(|_, (held, _)| *held > last);
        }
        if let Some(compliance) = &report.compliance {
            let listed =
                muster_compliance::packed::unpack(&compliance.update_numbers, &compliance.states);
            for (update, state) in listed.unwrap() {
                let slot = self.detections.entry(update.0).or_insert(((0, 0), state));
                newest(slot, (stamp(compliance.serial), state), |value| value.0);
            }
        }
        for s in &report.update_enforcements {
            let key = (
                DeploymentId::from_slice(&s.deployment_id).unwrap(),
                s.update_no,
            );
            let slot = self.updates.entry(key).or_insert(((0, 0), 0, 0));
            newest(slot, (stamp(s.serial), s.state, s.error_code), |value| {
                value.0
            });
        }
        for s in &report.deployments {
            let key = DeploymentId::from_slice(&s.deployment_id).unwrap();
            let slot = self.deployments.entry(key).or_insert(((0, 0), [0; 3]));
            let value = [s.compliance, s.enforcement, s.evaluation];
            newest(slot, (stamp(s.serial), value), |value| value.0);
        }
        if let Some(s) = &report.health {
            let slot = self.healthy.get_or_insert(((0, 0), true));
            newest(slot, (stamp(s.serial), s.healthy), |value| value.0);
        }
    }
}

/// The same stamp must always carry the same value: a serial is never given twice.
fn newest<T: PartialEq + std::fmt::Debug>(slot: &mut T, fresh: T, stamp: impl Fn(&T) -> Stamp) {
    if stamp(&fresh) > stamp(slot) {
        *slot = fresh;
    }
}

pub(crate) struct Site {
    pub(crate) ca: CertificateAuthority,
    key: Ed25519KeyPair,
    known: Arc<Mutex<Known>>,
    servers: Vec<Handle>,
    locations: Locations,
    served: Arc<Mutex<Locations>>,
    revision: Mutex<u64>,
}

impl Site {
    pub(crate) async fn start(dir: &std::path::Path) -> Self {
        Self::start_as(dir, "P01").await
    }

    pub(crate) async fn start_as(dir: &std::path::Path, code: &str) -> Self {
        muster_runtime::crypto::install();
        let ca = CertificateAuthority::create(&dir.join("ca"), code).unwrap();
        let key = Ed25519KeyPair::generate().unwrap();
        let known = Arc::new(Mutex::new(Known::default()));
        let mut urls = Vec::new();
        let mut servers = Vec::new();
        let service = Service {
            known: Arc::clone(&known),
            ca: CertificateAuthority::load(&dir.join("ca")).unwrap(),
            policy_key: key.public_key().as_ref().to_vec(),
            locations: Arc::default(),
        };
        let locations = Arc::clone(&service.locations);
        let service = Arc::new(service);
        for role in [Role::ManagementPoint, Role::SoftwareUpdatePoint] {
            let issued = ca.issue(role, role.as_str(), &["127.0.0.1"]).unwrap();
            let tls = issued.write(dir, role.as_str(), ca.path()).unwrap();
            let listen = "127.0.0.1:0".parse().unwrap();
            let config = ServerConfig {
                listen,
                tls,
                limits: Default::default(),
            };
            let server = Server::new(config, TABLE).descriptors(muster_proto::DESCRIPTORS);
            let server = if role == Role::ManagementPoint {
                server
                    .allow_without_certificate()
                    .add_service(RegistrationServiceServer::from_arc(Arc::clone(&service)))
                    .add_service(PolicyServiceServer::from_arc(Arc::clone(&service)))
                    .add_service(StateServiceServer::from_arc(Arc::clone(&service)))
            } else {
                let scans = ScanServiceServer::from_arc(Arc::clone(&service))
                    .send_compressed(CompressionEncoding::Zstd);
                server.add_service(scans)
            };
            let handle = server.start().await.unwrap();
            urls.push(format!("https://127.0.0.1:{}", handle.addr().port()));
            servers.push(handle);
        }
        let found = Locations {
            management_points: vec![urls[0].clone()],
            software_update_points: vec![urls[1].clone()],
            distribution_points: Vec::new(),
        };
        *locations.lock().unwrap() = found.clone();
        Self {
            ca,
            key,
            known,
            servers,
            locations: found,
            served: locations,
            revision: Mutex::new(0),
        }
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn policy_key(&self) -> Vec<u8> {
        self.key.public_key().as_ref().to_vec()
    }

    /// What the site says of its distribution points from now on.
    pub(crate) fn move_distribution_points(&self, urls: Vec<String>) {
        self.served.lock().unwrap().distribution_points = urls;
    }

    pub(crate) fn management_point(&self) -> &str {
        &self.locations.management_points[0]
    }

    /// Signs a policy for a client and puts it in force.
    pub(crate) fn set_policy(&self, client: ClientId, policy: Policy) {
        let mut revision = self.revision.lock().unwrap();
        *revision += 1;
        let policy = Policy {
            revision: *revision,
            ..policy
        };
        self.known().policy = Some(self.sign(client, policy));
    }

    pub(crate) fn sign(&self, client: ClientId, policy: Policy) -> SignedPolicy {
        let policy = Policy {
            client_id: client.as_bytes().to_vec().into(),
            site_code: self.ca.site().into(),
            ..policy
        }
        .encode_to_vec();
        let signature = self
            .key
            .sign(&[CONTEXT, &policy].concat())
            .as_ref()
            .to_vec();
        SignedPolicy {
            version: Sha256::digest(&policy)[..16].to_vec().into(),
            policy: policy.into(),
            signature: signature.into(),
            key_id: Sha256::digest(self.key.public_key().as_ref())[..8]
                .to_vec()
                .into(),
        }
    }

    /// Topic 402 of an update as the site holds it, with its error code.
    pub(crate) fn update(&self, deployment: DeploymentId, update: u32) -> (UpdateEnforcement, i32) {
        let known = self.known();
        let (_, state, code) = known.held.updates[&(deployment, update)];
        (
            UpdateEnforcement::from_id(u8::try_from(state).unwrap()).unwrap(),
            code,
        )
    }

    /// Topics 300, 301 and 302 of a deployment as the site holds them.
    pub(crate) fn deployment(&self, deployment: DeploymentId) -> [i32; 3] {
        self.known().held.deployments[&deployment].1
    }

    /// Topic 500 as the site holds it.
    pub(crate) fn detection(&self, update: u32) -> Option<Detection> {
        self.known()
            .held
            .detections
            .get(&update)
            .map(|(_, state)| *state)
    }

    pub(crate) async fn stop(self) {
        for server in self.servers {
            server.stop(Duration::from_secs(2)).await;
        }
    }
}

struct Service {
    known: Arc<Mutex<Known>>,
    ca: CertificateAuthority,
    policy_key: Vec<u8>,
    locations: Arc<Mutex<Locations>>,
}

impl Service {
    /// Refuses who shows a certificate that was replaced.
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let peer = auth::peer(request).and_then(|peer| peer.fingerprint.clone());
        let replaced = &self.known().identities.replaced;
        match peer {
            Some(peer) if replaced.contains(&*peer) => Err(denied("CERTIFICATE_REPLACED")),
            Some(_) | None => Ok(()),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn denied(reason: &'static str) -> Status {
    status(Kind::Denied, reason, "refused")
}

#[tonic::async_trait]
impl RegistrationService for Service {
    async fn enrol(
        &self,
        request: Request<EnrolRequest>,
    ) -> Result<Response<EnrolResponse>, Status> {
        let request = request.into_inner();
        let locations = self.locations.lock().unwrap().clone();
        let mut known = self.known();
        if let Some(arrival) = &request.arrival {
            if known.arrivals_refused {
                return Err(denied("MOVE_REFUSED"));
            }
            known.arrivals += 1;
            let client = ClientId::from_slice(&arrival.client_id).unwrap();
            let code = self.ca.site();
            let identity = Identity::new(Role::Client, code, client.to_string()).unwrap();
            let day = Duration::from_secs(24 * 3600);
            let leaf = self.ca.sign_csr(&request.csr, &identity, day).unwrap();
            if std::mem::take(&mut known.identities.answer_lost) {
                return Err(status(Kind::Unavailable, "BROKER_AWAY", "lost"));
            }
            return Ok(Response::new(EnrolResponse {
                client_id: arrival.client_id.clone(),
                site_code: code.into(),
                epoch: arrival.known_epoch + known.arrivals,
                certificate_chain: vec![leaf.der.into()],
                policy_keys: vec![self.policy_key.clone().into()],
                locations: Some(locations),
            }));
        }
        let slot = known
            .tokens
            .get_mut(&request.token)
            .ok_or_else(|| denied("TOKEN_REFUSED"))?;
        if let Some((_, answer)) = slot {
            // A real site compares keys; the CSR is signed anew each time.
            return Ok(Response::new(answer.clone()));
        }
        let client = ClientId::generate();
        let identity = Identity::new(Role::Client, "P01", client.to_string()).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let leaf = self.ca.sign_csr(&request.csr, &identity, day).unwrap();
        let answer = EnrolResponse {
            client_id: client.as_bytes().to_vec().into(),
            site_code: "P01".into(),
            epoch: 1,
            certificate_chain: vec![leaf.der.into()],
            policy_keys: vec![self.policy_key.clone().into()],
            locations: Some(locations),
        };
        *slot = Some((request.csr.to_vec(), answer.clone()));
        Ok(Response::new(answer))
    }

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let locations = self.locations.lock().unwrap().clone();
        Ok(Response::new(RegisterResponse {
            epoch: request.get_ref().known_epoch + 1,
            // Whoever answers a registration could bring a key of its own.
            policy_keys: vec![vec![9; 32].into(), self.policy_key.clone().into()],
            locations: Some(locations),
        }))
    }

    async fn renew_identity(
        &self,
        request: Request<RenewIdentityRequest>,
    ) -> Result<Response<RenewIdentityResponse>, Status> {
        let caller: ClientId = auth::identity(&request)?.name.parse().unwrap();
        let peer = auth::peer(&request).unwrap().fingerprint.clone().unwrap();
        let request = request.into_inner();
        let csr = rustls_pki_types::CertificateSigningRequestDer::from(request.csr.to_vec());
        let csr = rcgen::CertificateSigningRequestParams::from_der(&csr).unwrap();
        let key = rcgen::PublicKeyData::der_bytes(&csr.public_key).to_vec();
        let mut known = self.known();
        let identities = &mut known.identities;
        let answer = identities.answers.get(&key).cloned().unwrap_or_else(|| {
            let machine = request.machine.unwrap_or_default();
            let keeps = machine.machine_id_hash == identities.original;
            let (client, epoch) = if keeps {
                identities.replaced.insert(peer.to_string());
                identities.forked = None;
                (caller, 9)
            } else {
                (ClientId::generate(), 1)
            };
            let identity = Identity::new(Role::Client, "P01", client.to_string()).unwrap();
            let day = Duration::from_secs(24 * 3600);
            let leaf = self.ca.sign_csr(&request.csr, &identity, day).unwrap();
            RenewIdentityResponse {
                client_id: client.as_bytes().to_vec().into(),
                epoch,
                certificate_chain: vec![leaf.der.into()],
            }
        });
        identities.answers.insert(key, answer.clone());
        if std::mem::take(&mut identities.answer_lost) {
            return Err(status(Kind::Unavailable, "BROKER_AWAY", "lost"));
        }
        Ok(Response::new(answer))
    }

    async fn get_locations(
        &self,
        _: Request<GetLocationsRequest>,
    ) -> Result<Response<GetLocationsResponse>, Status> {
        let locations = Some(self.locations.lock().unwrap().clone());
        Ok(Response::new(GetLocationsResponse { locations }))
    }
}

#[tonic::async_trait]
impl PolicyService for Service {
    async fn get_policy(
        &self,
        request: Request<GetPolicyRequest>,
    ) -> Result<Response<GetPolicyResponse>, Status> {
        self.admit(&request)?;
        let mut known = self.known();
        if known.blocked {
            return Err(denied("CLIENT_BLOCKED"));
        }
        let wanted = &request.get_ref().known_version;
        let policy = known
            .policy
            .clone()
            .filter(|policy| policy.version != wanted);
        let send_full_report = std::mem::take(&mut known.full_wanted);
        Ok(Response::new(GetPolicyResponse {
            policy,
            send_full_report,
            next_poll_in: None,
            wish: known.polled_wish.take(),
        }))
    }
}

#[tonic::async_trait]
impl StateService for Service {
    async fn relay_reports(
        &self,
        _: Request<RelayReportsRequest>,
    ) -> Result<Response<RelayReportsResponse>, Status> {
        unreachable!("no client relays")
    }

    async fn report_states(
        &self,
        request: Request<ReportStatesRequest>,
    ) -> Result<Response<ReportStatesResponse>, Status> {
        self.admit(&request)?;
        let client = auth::identity(&request)?.name.clone();
        let mut known = self.known();
        let unavailable = || status(Kind::Unavailable, "BROKER_AWAY", "the broker is away");
        if known.unavailable == Some(false) {
            return Err(unavailable());
        }
        let mut epoch = 0;
        for bytes in &request.get_ref().reports {
            assert!(bytes.len() <= 1024 * 1024);
            let report = Report::decode(bytes.clone()).unwrap();
            let id = ClientId::from_slice(&report.client_id).unwrap();
            assert_eq!(id.to_string(), client, "a report names its sender");
            known.held.apply(&report);
            epoch = report.epoch;
            known.reports.push(report);
        }
        if known.unavailable == Some(true) {
            return Err(unavailable());
        }
        let forked = known.identities.forked;
        let renew = forked.is_some_and(|forked| forked.to_string() == client);
        let wish = renew.then(|| Wish {
            kind: WishKind::RenewIdentity.into(),
            epoch,
            ..Default::default()
        });
        let asked = known.wish.take();
        Ok(Response::new(ReportStatesResponse {
            next_report_in: None,
            wish: wish.or(asked),
        }))
    }
}

#[tonic::async_trait]
impl ScanService for Service {
    async fn get_scan_metadata(
        &self,
        request: Request<GetScanMetadataRequest>,
    ) -> Result<Response<GetScanMetadataResponse>, Status> {
        let request = request.into_inner();
        let mut known = self.known();
        if known.scans_fail {
            return Err(status(Kind::Unavailable, "CATALOG_AWAY", "away"));
        }
        known.scans.push(request.clone());
        if request.base_generation == 0 {
            return Ok(Response::new(known.catalog.clone()));
        }
        if known.forgets_generations {
            return Err(status(
                Kind::Conflict,
                "GENERATION_UNKNOWN",
                "not known here",
            ));
        }
        let generation = request.base_generation;
        let nothing = GetScanMetadataResponse {
            generation,
            ..Default::default()
        };
        Ok(Response::new(known.difference.clone().unwrap_or(nothing)))
    }
}
