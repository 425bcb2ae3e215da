//! Enrolment: the one call that strangers may make, so it is checked and held short before the
//! site hears of it.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use muster_proto::client::{EnrolClientRequest, EnrolRequest, EnrolResponse, MachineFacts};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::ask_site::{empty, judge};
use super::{Error, Point};
use crate::config;
use crate::domain::bucket::{Buckets, network};

/// Longest signing request and certificate, in bytes.
const MAX_CSR: usize = 8 * 1024;
/// Longest token, and longest fact about a machine, in bytes.
const MAX_TEXT: usize = 256;
/// Addresses of strangers that are remembered at most.
const MAX_ADDRESSES: usize = 10_000;
/// What a stranger is asked to wait when others are being enrolled.
const WHEN_BUSY: Duration = Duration::from_secs(2);

/// Lets strangers in one by one.
#[derive(Debug)]
pub(crate) struct Doorkeeper {
    at_once: Semaphore,
    buckets: Mutex<Buckets<IpAddr>>,
}

impl Doorkeeper {
    pub(crate) fn new(config: &config::Enrol) -> Self {
        Self {
            at_once: Semaphore::new(config.concurrency.max(1)),
            buckets: Mutex::new(Buckets::new(config.burst, config.per_minute, MAX_ADDRESSES)),
        }
    }

    fn admit(&self, from: IpAddr) -> Result<SemaphorePermit<'_>, Error> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets
            .take(network(from), Instant::now())
            .map_err(Error::TooManyEnrolments)?;
        self.at_once
            .try_acquire()
            .map_err(|_| Error::TooManyEnrolments(WHEN_BUSY))
    }
}

/// Enrols the machine at `from`.
pub(crate) async fn enrol(
    point: &Point,
    from: IpAddr,
    request: EnrolRequest,
) -> Result<EnrolResponse, Error> {
    let _permit = point.doorkeeper.admit(from).inspect_err(|_| {
        metrics::counter!("muster_enrolments_refused_total").increment(1);
    })?;
    match &request.arrival {
        // What it is worth, the site decides.
        Some(arrival) => {
            if !request.token.is_empty() || arrival.client_id.len() != 16 {
                return Err(Error::Invalid("an arrival has a client id and no token"));
            }
            if arrival.certificate.is_empty() || arrival.certificate.len() > MAX_CSR {
                return Err(Error::Invalid("the certificate is missing or too long"));
            }
        }
        None if request.token.is_empty() || request.token.len() > MAX_TEXT => {
            return Err(Error::Invalid("the token is missing or too long"));
        }
        None => {}
    }
    check(&request.csr, request.machine.as_ref())?;
    let request = EnrolClientRequest {
        request: Some(request),
        address: from.to_string(),
    };
    let answer = point
        .site
        .clone()
        .enrol_client(request)
        .await
        .map_err(judge)?;
    answer.into_inner().response.ok_or_else(empty)
}

/// Looks at what a machine says about itself and at its signing request.
pub(super) fn check(csr: &[u8], machine: Option<&MachineFacts>) -> Result<(), Error> {
    if csr.is_empty() || csr.len() > MAX_CSR {
        return Err(Error::Invalid("the signing request is missing or too long"));
    }
    let none = MachineFacts::default();
    let facts = machine.unwrap_or(&none);
    let texts = [
        &facts.host_name,
        &facts.os_id,
        &facts.os_version_id,
        &facts.architecture,
        &facts.agent_version,
    ];
    if texts.iter().any(|text| text.len() > MAX_TEXT) || facts.machine_id_hash.len() > 32 {
        return Err(Error::Invalid("a fact about the machine is too long"));
    }
    Ok(())
}
