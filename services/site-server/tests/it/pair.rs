//! Two running sites with a link between them.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use muster_proto::state as pb;
use muster_testkit::hierarchy::clients_held;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use uuid::Uuid;

use crate::site::{Ground, Site};

pub(crate) struct Pair {
    pub(crate) parent: Site,
    pub(crate) child: Site,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        let mut pair = Self {
            parent: running("CEN").await,
            child: running("P01").await,
        };
        // What a join does.
        let parent = &pair.parent.config;
        let password = std::fs::read_to_string(&parent.rabbitmq.password_file).unwrap();
        let (ours, theirs) = (key(&pair.parent), key(&pair.child));
        const LINK: &str = "
            INSERT INTO links (peer_site_code, peer_name, is_parent, public_key, peer_protocol)
            VALUES ($1, $1, $2, $3, 1)";
        const BROKER: &str = "
            INSERT INTO parent_broker
                (peer_site_code, uri, username, password, ca, certificate, key)
            VALUES ('CEN', $1, $2, $3, '', '', '')";
        let db = pair.parent.pool.get().await.unwrap();
        let public = theirs.public_key().as_ref();
        db.execute(LINK, &[&"P01", &false, &public]).await.unwrap();
        let mut db = pair.child.pool.get().await.unwrap();
        let tx = db.transaction().await.unwrap();
        let public = ours.public_key().as_ref();
        tx.execute(LINK, &[&"CEN", &true, &public]).await.unwrap();
        let (uri, user) = (&parent.rabbitmq.uri, &parent.rabbitmq.user);
        tx.execute(BROKER, &[uri, user, &password.trim()])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        drop(db);
        pair.settled("a new link").await;
        pair.child.handle.as_mut().unwrap();
        pair
    }

    /// Waits until the parent holds what the child holds, and both count it right.
    pub(crate) async fn settled(&self, why: &str) {
        let started = std::time::Instant::now();
        loop {
            let (held, told) = (self.held().await, self.told().await);
            let quiet = "SELECT (SELECT count(*) FROM link_batches)
                              + (SELECT count(*) FROM dirty_clients)
                              + (SELECT count(*) FROM links WHERE out_acked_seq = 0)";
            if held == told && self.child.count(quiet).await <= i64::from(held.is_empty()) {
                break;
            }
            if started.elapsed() > Duration::from_secs(60) {
                let missing: Vec<_> = held.iter().filter(|it| !told.contains(it)).collect();
                let wrong: Vec<_> = told.iter().filter(|it| !held.contains(it)).collect();
                panic!("{why}: the parent misses {missing:#?} and has {wrong:#?} instead");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for site in [&self.parent, &self.child] {
            assert_eq!(site.wrong_counters().await, 0, "{why}");
        }
    }

    /// Buckets in which something else was found than at the neighbour.
    pub(crate) async fn differing(&self) -> i64 {
        const SQL: &str = "SELECT sum(differing)::bigint FROM links";
        self.parent.count(SQL).await + self.child.count(SQL).await
    }

    pub(crate) async fn held(&self) -> Vec<String> {
        clients_held(&self.child.pool.get().await.unwrap(), "P01", None).await
    }

    pub(crate) async fn told(&self) -> Vec<String> {
        clients_held(&self.parent.pool.get().await.unwrap(), "CEN", Some("P01")).await
    }
}

pub(crate) async fn running(code: &str) -> Site {
    let ground = Ground::of(code).await;
    let handle = site_server::start(ground.config.clone()).await.unwrap();
    Site::on(ground, Some(handle)).await
}

pub(crate) async fn stop(site: &mut Site) {
    site.handle.take().unwrap().stop().await;
}

pub(crate) async fn start(site: &mut Site) {
    site.handle = Some(site_server::start(site.config.clone()).await.unwrap());
}

pub(crate) fn key(site: &Site) -> Ed25519KeyPair {
    let der = PrivatePkcs8KeyDer::from_pem_file(&site.config.policy_key).unwrap();
    Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap()
}

pub(crate) async fn restart(site: &mut Site) {
    stop(site).await;
    start(site).await;
}

/// A deployment of the parent, as it arrives at the child.
pub(crate) async fn deployment(pair: &Pair, id: Uuid) {
    const SQL: &str = "
        WITH made AS (
            INSERT INTO deployments
                (deployment_id, name, collection_no, available_at, suppress_restart)
            VALUES ($1, $2, 1, now(), false) RETURNING deployment_id)
        INSERT INTO dirty_objects (peer_site_code, kind, object_id)
        SELECT 'P01', 4, deployment_id FROM made
        ON CONFLICT DO NOTHING";
    const ARRIVED: &str = "SELECT count(*) FROM deployments WHERE owner_site_code = 'CEN'";
    let before = pair.child.count(ARRIVED).await;
    let db = pair.parent.pool.get().await.unwrap();
    db.execute(SQL, &[&id, &id.to_string()]).await.unwrap();
    drop(db);
    let started = std::time::Instant::now();
    while pair.child.count(ARRIVED).await == before {
        assert!(started.elapsed() < Duration::from_secs(60), "no deployment");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) fn enforcement(
    id: Uuid,
    update_no: u32,
    state: i32,
    serial: u64,
) -> pb::UpdateEnforcementState {
    pb::UpdateEnforcementState {
        deployment_id: Bytes::copy_from_slice(id.as_bytes()),
        update_no,
        state,
        serial,
        changed_at: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        ..Default::default()
    }
}
