//! A child whose certificate, broker user, signing key and database are in the wrong hands (S-07): it can
//! change nothing that is not its own, and its flood leaves room for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::Ed25519KeyPair;
use bytes::Bytes;
use muster_domain::states::Detection::{Installed, Required};
use muster_proto::client::client_service_client::ClientServiceClient;
use muster_proto::client::{DeleteClientRequest, ListClientsRequest};
use muster_proto::collection::CreateCollectionRequest;
use muster_proto::collection::collection_service_client::CollectionServiceClient;
use muster_proto::link::link_message::Kind;
use muster_proto::link::{self, ObjectKind};
use muster_proto::site::site_service_client::SiteServiceClient;
use muster_proto::site::{CreateInvitationRequest, RemoveChildRequest};
use muster_rabbitmq::{Batch, Config, Headers, Publisher, Secrets, topology};
use muster_runtime::Tasks;
use muster_runtime::grpc::{ChannelOptions, channel_with};
use muster_runtime::tls::ClientTls;
use muster_testkit::eventually;
use prost::Message;
use tonic::Code;
use uuid::Uuid;

use crate::joining::{start, start_with};
use crate::pair::{key, stop};
use crate::site::{Client, Site};

/// The central site, an honest child, and one that is in our hands. Each has a client.
struct Family {
    central: Site,
    honest: Site,
    hostile: Site,
    of_central: Client,
    of_honest: Client,
    of_hostile: Client,
    /// What the child got when it joined.
    loot: Loot,
}

struct Loot {
    key: Ed25519KeyPair,
    broker: Config,
    certificate: String,
    certificate_key: String,
    authority: String,
}

impl Family {
    async fn start(honest: &str, hostile: &str) -> Self {
        // A flood has used up its burst soon.
        let central = start_with("CEN", true, |links| {
            links.receive_burst = Duration::from_millis(200);
        });
        let central = central.await;
        // The sibling says nothing by itself that would move its marks.
        let honest = start_with(honest, false, |links| {
            links.cycle = Duration::from_secs(600);
        });
        let (honest, mut hostile) = (honest.await, start(hostile, false).await);
        for child in [&honest, &hostile] {
            let token = central.invite(child.config.site_code.as_str()).await;
            child.join(&token.unwrap()).await.unwrap();
        }
        let of_central = central.enrol("of-central").await;
        let of_honest = honest.enrol("of-honest").await;
        let of_hostile = hostile.enrol("of-hostile").await;
        let mut collections = CollectionServiceClient::new(central.channel("administrator"));
        let request = CreateCollectionRequest {
            name: "Global".into(),
            clients: vec!["of-central".into()],
            ..Default::default()
        };
        collections.create_collection(request).await.unwrap();
        for (site, client) in [(&honest, &of_honest), (&hostile, &of_hostile)] {
            site.report(&[client.full(1, &[(1, Required)])]).await;
        }
        eventually(async || {
            let rows = "SELECT count(*) FROM client_compliance";
            let all = central.count(rows).await == 2;
            let known = "SELECT count(*) FROM collections WHERE owner_site_code = 'CEN'";
            all && hostile.count(known).await == 1 && honest.count(known).await == 1
        })
        .await;
        quiet(&hostile).await;
        quiet(&honest).await;
        stop(&mut hostile).await;
        let loot = Loot::take(&hostile).await;
        Self {
            central,
            honest,
            hostile,
            of_central,
            of_honest,
            of_hostile,
            loot,
        }
    }

    fn code(&self) -> String {
        self.hostile.config.site_code.to_string()
    }

    fn sibling(&self) -> String {
        self.honest.config.site_code.to_string()
    }

    /// The next batch of the hostile child, with this in it.
    async fn batch(&self, body: &link::BatchBody) -> Kind {
        let sql = "SELECT in_epoch, in_seq, in_chain FROM links WHERE peer_site_code = $1";
        let db = self.central.pool.get().await.unwrap();
        let row = db.query_one(sql, &[&self.code()]).await.unwrap();
        Kind::Batch(link::Batch {
            epoch: row.get::<_, i32>(0).unsigned_abs(),
            seq: row.get::<_, i64>(1).unsigned_abs() + 1,
            after: Bytes::copy_from_slice(row.get(2)),
            body: zstd::encode_all(body.encode_to_vec().as_slice(), 3)
                .unwrap()
                .into(),
            numbered_at: None,
        })
    }

    fn sealed(&self, from: &str, kind: Kind) -> Bytes {
        let message = link::LinkMessage {
            from_site_code: from.into(),
            to_site_code: "CEN".into(),
            protocol: 1,
            kind: Some(kind),
        };
        let message = message.encode_to_vec();
        let content = [b"muster-link-v1\0".as_slice(), &message].concat();
        let signed = link::SignedMessage {
            message: message.into(),
            signature: Bytes::copy_from_slice(self.loot.key.sign(&content).as_ref()),
        };
        signed.encode_to_vec().into()
    }

    /// Everything at the central site that is not the hostile child's.
    async fn foreign(&self) -> Vec<String> {
        let sql = "
            SELECT 'client ' || (to_jsonb(c) - 'last_policy_at')::text FROM clients c
             WHERE c.via_site_code IS DISTINCT FROM $1
            UNION ALL SELECT 'said ' || to_jsonb(k)::text FROM client_compliance k
             JOIN clients c USING (client_no) WHERE c.via_site_code IS DISTINCT FROM $1
            UNION ALL SELECT 'member ' || to_jsonb(m)::text FROM collection_members m
             JOIN collections k USING (collection_no) WHERE k.owner_site_code IS DISTINCT FROM $1
            UNION ALL SELECT 'collection ' || to_jsonb(k)::text FROM collections k
             WHERE k.owner_site_code IS DISTINCT FROM $1
            UNION ALL SELECT 'list ' || to_jsonb(l)::text FROM update_lists l
             WHERE l.owner_site_code IS DISTINCT FROM $1
            UNION ALL SELECT 'deployment ' || to_jsonb(d)::text FROM deployments d
             WHERE d.owner_site_code IS DISTINCT FROM $1
            UNION ALL SELECT 'object ' || to_jsonb(o)::text FROM objects o
             WHERE o.owner_site_code IS DISTINCT FROM $1
            UNION ALL SELECT 'site ' || concat_ws('|', s.site_code, s.name, s.parent_site_code,
                                                  s.via_site_code, s.gone_at) FROM sites s
             WHERE s.via_site_code IS DISTINCT FROM $1
            UNION ALL SELECT 'link ' || concat_ws('|', l.peer_site_code, l.public_key, l.in_epoch,
                                                  l.in_seq, l.in_chain, l.out_epoch) FROM links l
             WHERE l.peer_site_code <> $1
            ORDER BY 1";
        let db = self.central.pool.get().await.unwrap();
        let rows = db.query(sql, &[&self.code()]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn kept(&self, reason: &str) -> i64 {
        let origin = format!("queue link.CEN.{}.up%", self.code());
        let sql = "SELECT count(*) FROM quarantine WHERE reason LIKE $1 AND origin LIKE $2";
        let db = self.central.pool.get().await.unwrap();
        let row = db.query_one(sql, &[&format!("{reason}:%"), &origin]).await;
        row.unwrap().get(0)
    }
}

impl Loot {
    async fn take(site: &Site) -> Self {
        let db = site.pool.get().await.unwrap();
        let sql = "SELECT uri, username, password, certificate, key, ca FROM parent_broker";
        let row = db.query_one(sql, &[]).await.unwrap();
        let secrets = Secrets {
            password: row.get(2),
            tls: None,
        };
        Self {
            key: key(site),
            broker: Config::with_secrets(row.get::<_, String>(0), row.get::<_, String>(1), secrets),
            certificate: row.get(3),
            certificate_key: row.get(4),
            authority: row.get(5),
        }
    }
}

/// Waits until a child has nothing more to say.
async fn quiet(child: &Site) {
    let waiting = "SELECT (SELECT count(*) FROM link_batches)
                        + (SELECT count(*) FROM dirty_clients)
                        + (SELECT count(*) FROM dirty_sites)
                        + (SELECT count(*) FROM links WHERE out_acked_seq = 0)";
    eventually(async || child.count(waiting).await == 0).await;
}

fn record(client: &Client, owner: &str) -> link::ClientRecord {
    link::ClientRecord {
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
        owner_site_code: owner.into(),
        number: 1_000 + u32::from(client.id.as_bytes()[15]),
        host_name: "stolen".into(),
        epoch: 1,
        enrolled_at: Some(prost_types::Timestamp::default()),
        ..Default::default()
    }
}

fn collection(id: &[u8], owner: &str, members: &[&Client]) -> link::Object {
    let definition = link::CollectionDefinition {
        name: "Taken over".into(),
        client_ids: members
            .iter()
            .map(|it| Bytes::copy_from_slice(it.id.as_bytes()))
            .collect(),
        ..Default::default()
    };
    link::Object {
        kind: ObjectKind::Collection.into(),
        object_id: Bytes::copy_from_slice(id),
        owner_site_code: owner.into(),
        definition: definition.encode_to_vec().into(),
        ..Default::default()
    }
}

fn moved(client: &Client, to: &str, owner: &str) -> link::Object {
    let definition = link::ClientMoveDefinition {
        move_no: 7,
        to_site_code: to.into(),
        ..Default::default()
    };
    link::Object {
        kind: ObjectKind::ClientMove.into(),
        object_id: Bytes::copy_from_slice(client.id.as_bytes()),
        owner_site_code: owner.into(),
        definition: definition.encode_to_vec().into(),
        ..Default::default()
    }
}

fn site(code: &str, parent: &str, gone: bool) -> link::SiteRecord {
    link::SiteRecord {
        site_code: code.into(),
        name: "Taken over".into(),
        parent_site_code: parent.into(),
        gone,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_compromised_child_changes_nothing_that_is_not_its_own() {
    let family = Family::start("H01", "H02").await;
    let (code, sibling) = (family.code(), family.sibling());
    let before = family.foreign().await;
    assert!(before.len() >= 8, "{before:#?}");
    let db = family.central.pool.get().await.unwrap();
    let sql = "SELECT collection_id FROM collections WHERE name = 'Global'";
    let global: Uuid = db.query_one(sql, &[]).await.unwrap().get(0);
    let sql = "SELECT collection_id FROM collections WHERE built_in";
    let all_systems: Uuid = db.query_one(sql, &[]).await.unwrap().get(0);
    drop(db);
    let tasks = Tasks::new();
    let publisher = Publisher::start(&family.loot.broker, &tasks).await.unwrap();
    let up = format!("link.CEN.{code}.up");
    let publish = async |body: Bytes| {
        publisher
            .publish_to(&up, "", body, Headers::current(1))
            .await
            .unwrap();
    };
    let clients = |clients: Vec<link::ClientRecord>| link::BatchBody {
        clients,
        ..Default::default()
    };
    let objects = |object: link::Object| link::BatchBody {
        objects: vec![object],
        ..Default::default()
    };
    let sites = |record: link::SiteRecord| link::BatchBody {
        sites: vec![record],
        ..Default::default()
    };
    let deleted = |record: link::ClientRecord| link::ClientRecord {
        deleted: true,
        ..record
    };
    let gone = |object: link::Object| link::Object {
        deleted: true,
        ..object
    };
    let fresh = Client {
        id: muster_domain::ClientId(Uuid::from_u128(77)),
        ..family.of_hostile.clone()
    };
    let said = |client: &Client| link::BatchBody {
        reports: vec![client.full(9, &[(1, Installed)]).encode_to_vec().into()],
        ..Default::default()
    };
    let own = record(&family.of_hostile, &code);
    let forged: Vec<(&str, link::BatchBody, &str)> = vec![
        (
            "takes a client of its sibling",
            clients(vec![record(&family.of_honest, &code)]),
            "NOT_A_CHILD",
        ),
        (
            "takes a client of its parent",
            clients(vec![record(&family.of_central, &code)]),
            "NOT_A_CHILD",
        ),
        (
            "deletes a client of its sibling",
            clients(vec![deleted(record(&family.of_honest, &sibling))]),
            "NOT_A_CHILD",
        ),
        (
            "deletes a client of its parent",
            clients(vec![deleted(record(&family.of_central, &code))]),
            "NOT_A_CHILD",
        ),
        (
            "makes a client for its sibling",
            clients(vec![record(&fresh, &sibling)]),
            "NOT_A_CHILD",
        ),
        (
            "makes a client for its parent",
            clients(vec![record(&fresh, "CEN")]),
            "NOT_A_CHILD",
        ),
        (
            "hides it behind one of its own",
            clients(vec![own, record(&family.of_honest, &code)]),
            "NOT_A_CHILD",
        ),
        (
            "speaks for a client of its sibling",
            said(&family.of_honest),
            "NOT_A_CHILD",
        ),
        (
            "speaks for a client of its parent",
            said(&family.of_central),
            "NOT_A_CHILD",
        ),
        (
            "changes a collection of its parent",
            objects(collection(global.as_bytes(), "CEN", &[])),
            "FOREIGN_OBJECT",
        ),
        (
            "takes it over",
            objects(collection(global.as_bytes(), &code, &[])),
            "FOREIGN_OBJECT",
        ),
        (
            "deletes it",
            objects(gone(collection(global.as_bytes(), "CEN", &[]))),
            "FOREIGN_OBJECT",
        ),
        (
            "deletes it as its own",
            objects(gone(collection(global.as_bytes(), &code, &[]))),
            "FOREIGN_OBJECT",
        ),
        (
            "makes one for its parent",
            objects(collection(&[7; 16], "CEN", &[])),
            "FOREIGN_OBJECT",
        ),
        (
            "makes one for its sibling",
            objects(collection(&[7; 16], &sibling, &[])),
            "FOREIGN_OBJECT",
        ),
        (
            "renames its parent",
            sites(site("CEN", "", false)),
            "DUPLICATE_SITE_CODE",
        ),
        (
            "renames its sibling",
            sites(site(&sibling, "CEN", false)),
            "DUPLICATE_SITE_CODE",
        ),
        (
            "takes its sibling below it",
            sites(site(&sibling, &code, false)),
            "DUPLICATE_SITE_CODE",
        ),
        (
            "ends its sibling",
            sites(site(&sibling, "CEN", true)),
            "DUPLICATE_SITE_CODE",
        ),
        (
            "moves a client of its sibling to itself",
            objects(moved(&family.of_honest, &code, "CEN")),
            "FOREIGN_OBJECT",
        ),
        (
            "decides that by itself",
            objects(moved(&family.of_honest, &code, &code)),
            "FOREIGN_OBJECT",
        ),
        (
            "says that one was moved to it",
            clients(vec![link::ClientRecord {
                move_no: 7,
                ..record(&family.of_honest, &code)
            }]),
            "NOT_A_CHILD",
        ),
        (
            "makes a site beside it",
            sites(site("X77", "CEN", false)),
            "NOT_A_CHILD",
        ),
    ];
    for (what, body, reason) in forged {
        let refused = family.kept(reason).await;
        let message = family.sealed(&code, family.batch(&body).await);
        publish(message).await;
        eventually(async || family.kept(reason).await == refused + 1).await;
        assert_eq!(family.foreign().await, before, "{what}");
    }
    // Of a client that nobody knows it may speak: that comes to nothing.
    let mark = format!("SELECT in_seq FROM links WHERE peer_site_code = '{code}'");
    let held = family.central.count(&mark).await;
    publish(family.sealed(&code, family.batch(&said(&fresh)).await)).await;
    eventually(async || family.central.count(&mark).await > held).await;
    assert_eq!(family.foreign().await, before, "speaks for nobody");
    let unknown = format!(
        "SELECT count(*) FROM clients WHERE client_id = '{}'",
        fresh.id
    );
    assert_eq!(family.central.count(&unknown).await, 0);
    // In another's name; and what moves marks, which are its own link's alone.
    let nothing = family.batch(&link::BatchBody::default()).await;
    publish(family.sealed(&sibling, nothing)).await;
    eventually(async || family.kept("FOREIGN_LINK_MESSAGE").await == 1).await;
    let far = link::Mark {
        epoch: 9,
        seq: 1_000_000,
        chain: vec![9; 16].into(),
    };
    for kind in [
        Kind::Acknowledgement(link::Acknowledgement {
            mark: Some(far.clone()),
        }),
        Kind::Welcome(link::Welcome {
            nonce: 1,
            mark: Some(far),
        }),
        Kind::Refusal(link::Refusal {
            reason: "NO".into(),
            detail: "x".repeat(100_000),
        }),
    ] {
        publish(family.sealed(&code, kind)).await;
    }
    let refused = "SELECT count(*) FROM links WHERE refusal LIKE 'NO:%'";
    eventually(async || family.central.count(refused).await == 1).await;
    assert_eq!(family.foreign().await, before);

    // What is its own it may change, and that shows; what it names beside that stays as it was.
    let deployment = link::DeploymentDefinition {
        name: "For everybody".into(),
        collection_id: Bytes::copy_from_slice(all_systems.as_bytes()),
        ..Default::default()
    };
    let deployment = link::Object {
        kind: ObjectKind::Deployment.into(),
        object_id: vec![6; 16].into(),
        owner_site_code: code.clone(),
        definition: deployment.encode_to_vec().into(),
        ..Default::default()
    };
    let everybody = [&family.of_central, &family.of_honest, &family.of_hostile];
    let body = link::BatchBody {
        objects: vec![collection(&[5; 16], &code, &everybody), deployment],
        clients: vec![deleted(record(&family.of_hostile, &code))],
        ..Default::default()
    };
    let of_central = family
        .central
        .policy(&family.of_central, &[])
        .await
        .unwrap();
    publish(family.sealed(&code, family.batch(&body).await)).await;
    let arrived = "SELECT count(*) FROM deployments WHERE name = 'For everybody'";
    eventually(async || family.central.count(arrived).await == 1).await;
    let sql = "SELECT count(*) FROM collection_members JOIN collections USING (collection_no)
               WHERE name = 'Taken over'";
    assert_eq!(
        family.central.count(sql).await,
        0,
        "its own client is deleted"
    );
    let sql =
        "SELECT count(*) FROM clients WHERE deleted_at IS NOT NULL AND host_name = 'of-hostile'";
    assert_eq!(family.central.count(sql).await, 1, "a deletion shows");
    let after = family
        .central
        .policy(&family.of_central, &[])
        .await
        .unwrap();
    let names = |answer: &muster_proto::client::GetClientPolicyResponse| {
        format!("{answer:?}").contains("For everybody")
    };
    assert!(!names(&of_central) && !names(&after), "{after:?}");
    assert_eq!(family.foreign().await, before);
}

#[tokio::test]
async fn the_broker_and_the_doors_of_the_parent_refuse_what_is_not_the_childs() {
    let family = Family::start("H03", "H04").await;
    let (code, sibling) = (family.code(), family.sibling());
    let before = family.foreign().await;
    let broker = &family.loot.broker;
    let own = format!("link.CEN.{code}.up");
    let ours = [own.clone(), format!("link.CEN.{code}.down")];
    let theirs = [
        format!("link.CEN.{sibling}.up"),
        format!("link.CEN.{sibling}.down"),
        "site.CEN.state.0".to_owned(),
        "site.CEN.state.urgent".to_owned(),
    ];
    let message = || {
        let ask = Kind::AskToGreet(link::AskToGreet {});
        family.sealed(&code, ask)
    };
    let tasks = Tasks::new();
    // A refusal ends a channel, so each has a publisher of its own.
    let others = [
        &theirs[0],
        &theirs[1],
        "site.CEN.states",
        &ours[1],
        "amq.topic",
    ];
    for exchange in others {
        let tasks = Tasks::new();
        let publisher = Publisher::start(broker, &tasks).await.unwrap();
        let sent = publisher.publish_to(exchange, "0", message(), Headers::current(1));
        let sent = tokio::time::timeout(Duration::from_secs(10), sent).await;
        assert!(!matches!(sent, Ok(Ok(()))), "it publishes to {exchange}");
        tasks.stop(Duration::from_secs(1)).await;
    }
    for queue in theirs.iter().chain([&own]) {
        let handler = async |_| Ok::<(), muster_rabbitmq::Error>(());
        let read = muster_rabbitmq::consume(broker, queue, Batch::default(), &tasks, handler).await;
        assert!(read.is_err(), "it reads {queue}");
        let made = topology::declare(broker, &[format!("{queue}.mine")]).await;
        assert!(made.is_err(), "it makes queues");
    }
    let mut open = Vec::new();
    while let Ok(connection) = muster_rabbitmq::open(broker, "test").await {
        open.push(connection);
        assert!(open.len() <= 32, "it opens as many connections as it likes");
    }
    assert!(open.len() >= 4, "a link has room");
    drop(open);

    // Its certificate opens one door, behind which it can only leave.
    let loot = &family.loot;
    let tls = ClientTls::from_pem(&loot.authority, &loot.certificate, &loot.certificate_key);
    let url = format!("https://127.0.0.1:{}", family.central.config.listen.port());
    let channel = channel_with(&url, tls.unwrap(), &ChannelOptions::default()).unwrap();
    let mut clients = ClientServiceClient::new(channel.clone());
    let mut sites = SiteServiceClient::new(channel);
    let request = DeleteClientRequest {
        client_id: Bytes::copy_from_slice(family.of_hostile.id.as_bytes()),
    };
    let invitation = CreateInvitationRequest {
        site_code: "X78".into(),
        ..Default::default()
    };
    let removal = RemoveChildRequest {
        site_code: sibling.clone(),
    };
    let list = ListClientsRequest::default();
    for refused in [
        clients.delete_client(request).await.unwrap_err(),
        clients.list_clients(list).await.unwrap_err(),
        sites.create_invitation(invitation).await.unwrap_err(),
        sites.remove_child(removal).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    assert_eq!(family.foreign().await, before);
}

/// How long it takes until the parent has what a client said at the child.
async fn climb(family: &Family, serial: u64) -> Duration {
    let states = [(
        1,
        if serial.is_multiple_of(2) {
            Installed
        } else {
            Required
        },
    )];
    let report = family.of_honest.delta(serial, serial, &states);
    let started = Instant::now();
    family.honest.report(&[report]).await;
    while family
        .central
        .contiguous(&family.of_honest)
        .await
        .unsigned_abs()
        < serial
    {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "it does not climb"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

fn worst(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.pop().unwrap()
}

#[tokio::test]
async fn a_flood_of_one_child_leaves_room_for_its_sibling() {
    let family = Family::start("H05", "H06").await;
    let code = family.code();
    let before = family.foreign().await.len();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for serial in 2..14 {
        alone.push(climb(&family, serial).await);
    }
    let tasks = Tasks::new();
    let up = format!("link.CEN.{code}.up");
    // The same report again and again, garbage, and what is as large as it may be.
    let report = link::BatchBody {
        reports: (0..200)
            .map(|n| {
                family
                    .of_hostile
                    .full(9 + n, &[(1, Installed)])
                    .encode_to_vec()
                    .into()
            })
            .collect(),
        ..Default::default()
    };
    let messages = [
        family.sealed(&code, family.batch(&report).await),
        Bytes::from(vec![0xFF; 1_000]),
        family.sealed(&code, family.batch(&link::BatchBody::default()).await),
        Bytes::from(vec![7; 64 * 1024]),
    ];
    let full = Arc::new(AtomicU64::new(0));
    for _ in 0..4 {
        let full = Arc::clone(&full);
        let publisher = Publisher::start(&family.loot.broker, &tasks).await.unwrap();
        let (up, stop, messages) = (up.clone(), tasks.token(), messages.clone());
        tasks.spawn("flood", async move {
            for message in messages.iter().cycle() {
                let sent = publisher.publish_to(&up, "", message.clone(), Headers::current(1));
                tokio::select! {
                    () = stop.cancelled() => return,
                    sent = sent => if sent.is_err() {
                        full.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    },
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for serial in 14..26 {
        beside.push(climb(&family, serial).await);
    }
    // Its own queue fills up, and refuses what is more.
    eventually(async || full.load(Ordering::Relaxed) > 0).await;
    tasks.stop(Duration::from_secs(5)).await;
    let (alone, beside) = (worst(alone), worst(beside));
    // Five helpers may share this machine: a quarter of a second is its own.
    let bound = alone * 2 + Duration::from_millis(250);
    assert!(
        beside < bound,
        "{beside:?} beside the flood, {alone:?} alone"
    );
    assert_eq!(family.foreign().await.len(), before);
}
