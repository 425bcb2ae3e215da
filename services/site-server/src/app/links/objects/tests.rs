//! Objects between sites with a database each; the batches are carried by hand.

use std::time::Duration;

use muster_proto::{catalog, collection, content, deployment};
use muster_runtime::status::HasKind;

use super::*;
use crate::app::links::object_digests as digests;
use crate::app::{
    directory, manage_collections, manage_deployments, manage_packages, manage_update_lists,
};
use crate::store;
use crate::testing::{TestSite, site};

const ADMIN: &str = "administrator";
const MANY: usize = 1_000;
/// All buckets.
const ALL: std::ops::Range<usize> = 0..muster_link::BUCKETS;

fn neighbour(code: &str, is_parent: bool) -> Neighbour {
    Neighbour {
        code: code.parse().unwrap(),
        is_parent,
    }
}

impl TestSite {
    fn code(&self) -> &str {
        self.site.config.site_code.as_str()
    }

    async fn run(&self, sql: &str) {
        self.site
            .db()
            .await
            .unwrap()
            .batch_execute(sql)
            .await
            .unwrap();
    }

    /// What SQL says, as text.
    async fn text(&self, sql: &str) -> String {
        let row = self.site.db().await.unwrap().query_one(sql, &[]).await;
        row.unwrap().get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// A neighbour of ours, with what is to be known of it.
    async fn knows(&self, peer: &str, is_parent: bool, lineage: &str) {
        let via = if is_parent {
            "NULL".to_owned()
        } else {
            format!("'{peer}'")
        };
        self.run(&format!(
            "INSERT INTO links (peer_site_code, peer_name, is_parent, public_key, peer_protocol, lineage)
             VALUES ('{peer}', '{peer}', {is_parent}, sha256('{peer}'), 1, '{{{lineage}}}');
             INSERT INTO sites (site_code, name, via_site_code) VALUES ('{peer}', '{peer}', {via})
             ON CONFLICT DO NOTHING"
        ))
        .await;
    }

    async fn has_client(&self, id: Uuid) {
        self.run(&format!(
            "WITH c AS (INSERT INTO clients (client_id, host_name, os_id, os_version_id,
                 architecture, agent_version, epoch)
                 VALUES ('{id}', 'host-{id}', '', '', '', '', 1) RETURNING client_no)
             INSERT INTO report_stream_rows (client_no, epoch) SELECT client_no, 1 FROM c"
        ))
        .await;
    }

    async fn has_updates(&self, numbers: &[u32]) {
        let update = |number: &u32| catalog::Update {
            update_no: *number,
            update_id: format!("update-{number}"),
            revision: 1,
            generation: 1,
            ..Default::default()
        };
        let updates: Vec<catalog::Update> = numbers.iter().map(update).collect();
        let db = self.site.db().await.unwrap();
        store::catalog::keep(&db, &updates).await.unwrap();
    }

    async fn collection(
        &self,
        name: &str,
        clients: &[Uuid],
    ) -> Result<collection::Collection, Error> {
        let request = collection::CreateCollectionRequest {
            name: name.to_owned(),
            clients: clients.iter().map(Uuid::to_string).collect(),
            ..Default::default()
        };
        manage_collections::create_collection(&self.site, ADMIN, &request).await
    }

    async fn list(&self, name: &str, update_numbers: &[u32]) {
        let request = catalog::CreateUpdateListRequest {
            name: name.to_owned(),
            update_numbers: update_numbers.to_vec(),
            ..Default::default()
        };
        let made = manage_update_lists::create_update_list(&self.site, ADMIN, &request).await;
        made.unwrap();
    }

    async fn package(&self, name: &str, update_list: &str) {
        let request = content::CreatePackageRequest {
            name: name.to_owned(),
            update_list: update_list.to_owned(),
            ..Default::default()
        };
        let made = manage_packages::create_package(&self.site, ADMIN, &request).await;
        made.unwrap();
    }

    async fn deployment(&self, name: &str, collection: &str, update_list: &str) {
        let request = deployment::CreateDeploymentRequest {
            name: name.to_owned(),
            collection: collection.to_owned(),
            update_list: update_list.to_owned(),
            ..Default::default()
        };
        let made = manage_deployments::create_deployment(&self.site, ADMIN, &request).await;
        made.unwrap();
    }

    async fn delete_collection(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        let request = collection::DeleteCollectionRequest { name };
        manage_collections::delete_collection(&self.site, ADMIN, &request).await
    }

    async fn delete_list(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        let request = catalog::DeleteUpdateListRequest { name };
        manage_update_lists::delete_update_list(&self.site, ADMIN, &request).await
    }

    async fn delete_package(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        let request = content::DeletePackageRequest { name };
        manage_packages::delete_package(&self.site, ADMIN, &request).await
    }

    async fn delete_deployment(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        let request = deployment::DeleteDeploymentRequest { name };
        manage_deployments::delete_deployment(&self.site, ADMIN, &request).await
    }

    async fn take(&self, peer: Neighbour) -> Vec<pb::Object> {
        let mut db = self.site.db().await.unwrap();
        let tx = db.transaction().await.unwrap();
        let taken = take(&self.site, &tx, peer, MANY).await.unwrap();
        tx.commit().await.unwrap();
        taken
    }

    async fn apply(&self, peer: Neighbour, objects: &[pb::Object]) -> Result<(), Refused> {
        let _known = self.site.known_clients.lock_all().await;
        let mut turn = directory::turn(&self.site).await;
        let mut db = self.site.db().await.unwrap();
        let tx = db.transaction().await.unwrap();
        let applied = apply(&self.site, &tx, peer, objects).await.unwrap()?;
        turn.doubt();
        tx.commit().await.unwrap();
        remember(&self.site, &turn, &applied);
        turn.settle();
        Ok(())
    }

    async fn digests(&self, peer: Neighbour, sends: bool) -> muster_link::Digests {
        let db = self.site.db().await.unwrap();
        let own = self.site.config.site_code;
        if sends {
            digests::sent(&db, own, &peer, &ALL).await.unwrap().0
        } else {
            let all = digests::received(&db, own, &peer, &[], &ALL);
            all.await.unwrap()
        }
    }
}

/// Carries everything that is dirty from one site to a neighbour; returns what that was.
async fn carry(parent: &TestSite, child: &TestSite, down: bool) -> Vec<pb::Object> {
    let (from, to) = if down {
        (parent, child)
    } else {
        (child, parent)
    };
    let objects = from.take(neighbour(to.code(), !down)).await;
    let applied = to.apply(neighbour(from.code(), down), &objects).await;
    applied.unwrap_or_else(|refused| panic!("{}: {}", refused.reason, refused.detail));
    objects
}

async fn pair() -> (TestSite, TestSite) {
    let (cen, p01) = (site("CEN").await, site("P01").await);
    cen.knows("P01", false, "").await;
    p01.knows("CEN", true, "CEN").await;
    (cen, p01)
}

/// Everything that a site holds of the others, in one text.
const HELD: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT concat_ws(' ', 'collection', c.collection_id, c.owner_site_code, c.name, c.description,
                         (SELECT string_agg(k.client_id::text, ',' ORDER BY k.client_id)
                          FROM collection_members m JOIN clients k USING (client_no)
                          WHERE m.collection_no = c.collection_no)) AS line
        FROM collections c WHERE NOT c.built_in
        UNION ALL SELECT concat_ws(' ', 'list', l.update_list_id, l.owner_site_code, l.name,
            (SELECT string_agg(m.update_no::text, ',' ORDER BY m.update_no)
             FROM update_list_members m WHERE m.update_list_no = l.update_list_no))
        FROM update_lists l
        UNION ALL SELECT concat_ws(' ', 'package', p.package_id, p.owner_site_code, p.name, p.all_leaves,
            (SELECT string_agg(u.update_no::text, ',' ORDER BY u.update_no)
             FROM package_updates u WHERE u.package_no = p.package_no)) FROM packages p
        UNION ALL SELECT concat_ws(' ', 'deployment', d.deployment_id, d.owner_site_code, d.name,
            c.collection_id, l.update_list_id, d.available_at, d.deadline_at, d.suppress_restart,
            d.verbosity, (SELECT string_agg(u.update_no::text, ',' ORDER BY u.update_no)
                          FROM deployment_updates u WHERE u.deployment_no = d.deployment_no))
        FROM deployments d JOIN collections c USING (collection_no)
        LEFT JOIN update_lists l USING (update_list_no)) AS lines";

fn reason<T>(result: Result<T, Error>) -> &'static str {
    result.err().map_or("", |error| error.reason())
}

#[tokio::test]
async fn what_is_made_above_arrives_below_and_only_there_above_it_can_be_changed() {
    let (cen, p01) = pair().await;
    let client = Uuid::now_v7();
    for site in [&cen, &p01] {
        site.has_client(client).await;
        site.has_updates(&[1, 2]).await;
    }
    cen.collection("Servers", &[client]).await.unwrap();
    cen.list("October", &[1, 2]).await;
    cen.package("October files", "October").await;
    cen.deployment("October for servers", "Servers", "October")
        .await;
    let before = p01.text("SELECT revision::text FROM policy_revision").await;
    let objects = carry(&cen, &p01, true).await;
    assert_eq!(objects.len(), 4);
    assert!(
        objects
            .iter()
            .all(|it| it.owner_site_code == "CEN" && !it.deleted)
    );

    // The same but for whose it is.
    let expected = cen.text(HELD).await;
    let held = p01.text(HELD).await;
    assert_eq!(held.replace(" CEN ", " "), expected);
    assert_eq!(held.matches(" CEN ").count(), 4);
    assert_ne!(
        p01.text("SELECT revision::text FROM policy_revision").await,
        before
    );
    // Its policy is the site's own affair, as for a deployment of its own.
    let db = p01.site.db().await.unwrap();
    let asking = store::policy::asking(&db, muster_domain::ClientId(client), Timestamp::now())
        .await
        .unwrap();
    assert_eq!(asking.unwrap().deployments.len(), 1);
    drop(db);
    let members = directory::members(&p01.site, "CEN/Servers")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(
        directory::update_list(&p01.site, "October")
            .await
            .unwrap()
            .len(),
        2
    );

    // Again, all of it, changes nothing and is not news.
    all_dirty(&cen.site.db().await.unwrap(), neighbour("P01", false))
        .await
        .unwrap();
    assert_eq!(carry(&cen, &p01, true).await, objects);
    assert_eq!(p01.text(HELD).await, held);
    assert!(carry(&cen, &p01, true).await.is_empty());

    let owned = "OWNED_BY_OTHER_SITE";
    assert_eq!(reason(p01.delete_collection("Servers").await), owned);
    assert_eq!(reason(p01.delete_list("CEN/October").await), owned);
    assert_eq!(reason(p01.delete_package("October files").await), owned);
    assert_eq!(
        reason(p01.delete_deployment("October for servers").await),
        owned
    );
    let change = collection::ChangeMembersRequest {
        name: "Servers".into(),
        remove_clients: vec![client.to_string()],
        ..Default::default()
    };
    let changed = manage_collections::change_members(&p01.site, ADMIN, &change).await;
    let message = changed.as_ref().unwrap_err().to_string();
    assert!(message.contains("site CEN"), "{message}");
    assert_eq!(reason(changed), owned);
    assert_eq!(p01.text(HELD).await, held);
}

#[tokio::test]
async fn a_plain_name_means_ours_and_a_code_says_whose_else() {
    let (cen, p01) = pair().await;
    p01.knows("S01", false, "").await;
    cen.collection("Servers", &[]).await.unwrap();
    carry(&cen, &p01, true).await;
    let get = async |name: &str| {
        let request = collection::GetCollectionRequest {
            name: name.to_owned(),
        };
        manage_collections::get_collection(&p01.site, &request).await
    };
    assert_eq!(get("servers").await.unwrap().owner_site_code, "CEN");
    // One of a site below makes the plain name say too little.
    let s01 = site("S01").await;
    s01.knows("P01", true, "P01,CEN").await;
    s01.collection("Servers", &[]).await.unwrap();
    carry(&p01, &s01, false).await;
    let ambiguous = get("Servers").await;
    let message = ambiguous.as_ref().unwrap_err().to_string();
    assert!(message.contains("CEN/Servers or S01/Servers"), "{message}");
    assert_eq!(reason(ambiguous), "AMBIGUOUS_NAME");
    assert_eq!(get("S01/servers").await.unwrap().owner_site_code, "S01");
    // Ours goes before both, and can be made beside them.
    p01.collection("Servers", &[]).await.unwrap();
    for (name, owner) in [
        ("Servers", "P01"),
        ("CEN/Servers", "CEN"),
        ("P01/Servers", "P01"),
    ] {
        assert_eq!(get(name).await.unwrap().owner_site_code, owner, "{name}");
    }
    assert_eq!(reason(get("P02/Servers").await), "UNKNOWN_COLLECTION");
    assert_eq!(reason(p01.collection("CEN/Mine", &[]).await), "NAME");
    // A child cannot call something "All systems" for us, but everybody has it.
    assert_eq!(get("All systems").await.unwrap().owner_site_code, "");
}

#[tokio::test]
async fn what_is_deleted_above_goes_below_and_its_name_may_be_used_at_once() {
    let (cen, p01) = pair().await;
    for site in [&cen, &p01] {
        site.has_updates(&[1]).await;
    }
    cen.collection("Servers", &[]).await.unwrap();
    cen.list("October", &[1]).await;
    cen.package("Files", "October").await;
    cen.deployment("Rollout", "Servers", "October").await;
    carry(&cen, &p01, true).await;
    cen.delete_deployment("Rollout").await.unwrap();
    cen.delete_package("Files").await.unwrap();
    cen.delete_list("October").await.unwrap();
    cen.delete_collection("Servers").await.unwrap();
    cen.collection("Servers", &[]).await.unwrap();
    let objects = carry(&cen, &p01, true).await;
    let order: Vec<_> = objects.iter().map(|it| (it.deleted, it.kind)).collect();
    assert_eq!(
        order,
        [(false, 1), (true, 4), (true, 3), (true, 2), (true, 1)]
    );
    assert_eq!(
        p01.text(HELD).await.replace(" CEN ", " "),
        cen.text(HELD).await
    );
    assert_eq!(
        p01.text("SELECT name FROM collections WHERE NOT built_in")
            .await,
        "Servers"
    );
    assert!(directory::members(&p01.site, "CEN/Servers").await.is_ok());
    // A tombstone that comes twice, and one of something that never was here.
    let mut unheard = objects[1].clone();
    unheard.object_id = Bytes::copy_from_slice(Uuid::now_v7().as_bytes());
    let again = [objects[1].clone(), unheard];
    p01.apply(neighbour("CEN", true), &again).await.unwrap();
}

#[tokio::test]
async fn members_that_a_site_does_not_know_wait_until_it_does() {
    let (cen, p01) = pair().await;
    let (known, later) = (Uuid::now_v7(), Uuid::now_v7());
    cen.has_client(known).await;
    cen.has_client(later).await;
    p01.has_client(known).await;
    cen.collection("Servers", &[known, later]).await.unwrap();
    carry(&cen, &p01, true).await;
    let members = async || {
        let held = directory::members(&p01.site, "CEN/Servers").await.unwrap();
        (
            held.unwrap().len(),
            p01.text("SELECT count(*)::text FROM collection_waiting_members")
                .await,
        )
    };
    assert_eq!(members().await, (1, "1".to_owned()));
    p01.has_client(later).await;
    let turn = directory::turn(&p01.site).await;
    let db = p01.site.db().await.unwrap();
    let joined = members_arrived(&db, &[later]).await.unwrap();
    remember_members(&turn, &joined);
    turn.settle();
    assert_eq!(members().await, (2, "0".to_owned()));
    // It leaves the site, and may come back.
    let turn = directory::turn(&p01.site).await;
    let numbers: i32 = db
        .query_one(
            "SELECT client_no FROM clients WHERE client_id = $1",
            &[&later],
        )
        .await
        .unwrap()
        .get(0);
    let left = members_left(&db, &[numbers]).await.unwrap();
    remember_members(&turn, &left);
    turn.settle();
    drop(db);
    assert_eq!(members().await, (1, "1".to_owned()));
}

#[tokio::test]
async fn a_deployment_of_updates_that_are_not_known_yet_is_whole_once_the_catalog_has_them() {
    let (cen, p01) = pair().await;
    cen.has_updates(&[1, 2, 3]).await;
    p01.has_updates(&[1]).await;
    cen.list("October", &[1, 2, 3]).await;
    cen.package("Files", "October").await;
    cen.deployment("Rollout", "", "October").await;
    carry(&cen, &p01, true).await;
    let names = directory::update_list(&p01.site, "CEN/October")
        .await
        .unwrap();
    assert_eq!(names.len(), 1);
    for arrived in [2, 3] {
        p01.has_updates(&[arrived]).await;
        let db = p01.site.db().await.unwrap();
        let grown = updates_arrived(&db, &[arrived.cast_signed()])
            .await
            .unwrap();
        assert_eq!(grown.len(), 1);
    }
    assert_eq!(
        p01.text(HELD).await.replace(" CEN ", " "),
        cen.text(HELD).await
    );
    assert_eq!(
        p01.text("SELECT count(*)::text FROM waiting_updates").await,
        "0"
    );
}

#[tokio::test]
async fn objects_climb_and_descend_byte_for_byte_and_siblings_hear_nothing() {
    let (cen, p01) = pair().await;
    let (p02, s01) = (site("P02").await, site("S01").await);
    cen.knows("P02", false, "").await;
    p02.knows("CEN", true, "CEN").await;
    p01.knows("S01", false, "").await;
    s01.knows("P01", true, "P01,CEN").await;
    cen.run("INSERT INTO sites (site_code, name, via_site_code) VALUES ('S01', 'S01', 'P01')")
        .await;

    // Up from the bottom: to the middle, to the top, and nowhere else.
    s01.collection("Bottom", &[]).await.unwrap();
    let sent = carry(&p01, &s01, false).await;
    assert_eq!(carry(&cen, &p01, false).await, sent);
    assert!(cen.take(neighbour("P02", false)).await.is_empty());
    assert!(p01.take(neighbour("S01", false)).await.is_empty());
    all_dirty(&cen.site.db().await.unwrap(), neighbour("P02", false))
        .await
        .unwrap();
    assert!(cen.take(neighbour("P02", false)).await.is_empty());

    // Down from the top, with a field that the middle has never heard of.
    let mut definition = pb::CollectionDefinition {
        name: "Top".into(),
        ..Default::default()
    }
    .encode_to_vec();
    definition.extend([0xaa, 0x06, 0x03, b'n', b'e', b'w']);
    let object = pb::Object {
        kind: ObjectKind::Collection.into(),
        object_id: Bytes::copy_from_slice(Uuid::now_v7().as_bytes()),
        owner_site_code: "CEN".into(),
        deleted: false,
        definition: definition.into(),
    };
    p01.apply(neighbour("CEN", true), std::slice::from_ref(&object))
        .await
        .unwrap();
    assert_eq!(carry(&p01, &s01, true).await, [object]);
    assert!(p01.take(neighbour("CEN", true)).await.is_empty());
    assert!(s01.text(HELD).await.contains(" CEN Top"));
}

#[tokio::test]
async fn a_neighbour_that_speaks_for_others_is_refused_and_nothing_changes() {
    let (cen, p01) = pair().await;
    cen.knows("P02", false, "").await;
    cen.collection("Servers", &[]).await.unwrap();
    let ours = carry(&cen, &p01, true).await.remove(0);
    let of = |owner: &str, object: &pb::Object| pb::Object {
        owner_site_code: owner.into(),
        ..object.clone()
    };
    let fresh = |owner: &str| pb::Object {
        object_id: Bytes::copy_from_slice(Uuid::now_v7().as_bytes()),
        ..of(owner, &ours)
    };
    let (before, below) = (cen.text(HELD).await, p01.text(HELD).await);
    let child = neighbour("P01", false);
    let deleted = pb::Object {
        deleted: true,
        ..ours.clone()
    };
    for bad in [
        ours.clone(),
        deleted,
        of("P01", &ours),
        fresh("CEN"),
        fresh("P02"),
        fresh("X99"),
    ] {
        // A good one before it goes with it.
        let refused = cen.apply(child, &[fresh("P01"), bad]).await.unwrap_err();
        assert_eq!(refused.reason, "FOREIGN_OBJECT", "{}", refused.detail);
    }
    // "All systems" belongs to nobody.
    let mut all = fresh("P01");
    all.object_id = Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes());
    assert_eq!(
        cen.apply(child, &[all]).await.unwrap_err().reason,
        "FOREIGN_OBJECT"
    );
    assert_eq!(cen.text(HELD).await, before);
    // A parent does not speak for us, nor for those below us.
    p01.knows("S01", false, "").await;
    for owner in ["P01", "S01"] {
        let refused = p01
            .apply(neighbour("CEN", true), &[fresh(owner)])
            .await
            .unwrap_err();
        assert_eq!(refused.reason, "FOREIGN_OBJECT", "{}", refused.detail);
    }
    // Bytes that are no definition, a kind that we do not know, a broken id.
    for bad in [
        pb::Object {
            definition: Bytes::from_static(&[0xff]),
            ..fresh("CEN")
        },
        pb::Object {
            kind: 99,
            ..fresh("CEN")
        },
        pb::Object {
            object_id: Bytes::from_static(b"short"),
            ..fresh("CEN")
        },
    ] {
        let refused = p01.apply(neighbour("CEN", true), &[bad]).await.unwrap_err();
        assert_eq!(refused.reason, "INVALID_OBJECT", "{}", refused.detail);
    }
    assert_eq!(p01.text(HELD).await, below);
}

#[tokio::test]
async fn a_collection_that_is_deleted_above_stays_as_long_as_a_deployment_below_has_it() {
    let (cen, p01) = pair().await;
    for site in [&cen, &p01] {
        site.has_updates(&[1]).await;
    }
    cen.collection("Servers", &[]).await.unwrap();
    carry(&cen, &p01, true).await;
    p01.list("Ours", &[1]).await;
    p01.deployment("Ours", "CEN/Servers", "Ours").await;
    // The owner has not heard of the deployment yet.
    cen.delete_collection("Servers").await.unwrap();
    carry(&cen, &p01, true).await;
    carry(&cen, &p01, false).await;
    assert!(p01.text(HELD).await.contains(" CEN Servers"));
    // Above, it is for nobody.
    assert!(!cen.text(HELD).await.contains("deployment"));
    p01.delete_deployment("Ours").await.unwrap();
    carry(&cen, &p01, false).await;
    cen.collection("Others", &[]).await.unwrap();
    carry(&cen, &p01, true).await;
    assert!(!p01.text(HELD).await.contains(" CEN Servers"));
}

#[tokio::test]
async fn a_site_that_left_takes_along_what_it_owns_and_nothing_else() {
    let (cen, p01) = pair().await;
    cen.has_updates(&[1]).await;
    p01.has_updates(&[1]).await;
    p01.collection("Theirs", &[]).await.unwrap();
    p01.list("Theirs", &[1]).await;
    p01.deployment("Theirs", "Theirs", "Theirs").await;
    cen.collection("Ours", &[]).await.unwrap();
    let alone = cen.text(HELD).await;
    carry(&cen, &p01, false).await;
    assert_ne!(cen.text(HELD).await, alone);
    let _known = cen.site.known_clients.lock_all().await;
    let turn = directory::turn(&cen.site).await;
    let db = cen.site.db().await.unwrap();
    let gone = remove_owned(&db, &["P01".parse().unwrap()]).await.unwrap();
    remember(&cen.site, &turn, &gone);
    turn.settle();
    drop(db);
    assert_eq!(cen.text(HELD).await, alone);
    assert_eq!(
        reason(directory::members(&cen.site, "P01/Theirs").await),
        "UNKNOWN_COLLECTION"
    );
}

#[tokio::test]
async fn digests_find_an_object_that_was_changed_or_lost_by_hand_and_the_bucket_repairs_it() {
    let (cen, p01) = pair().await;
    let (down, up) = (neighbour("P01", false), neighbour("CEN", true));
    for number in 0..20 {
        cen.collection(&format!("Collection {number}"), &[])
            .await
            .unwrap();
    }
    // What the neighbour is still to hear of does not count.
    let empty = muster_link::Digests::default();
    assert_eq!(cen.digests(down, true).await, empty);
    carry(&cen, &p01, true).await;
    let held = p01.text(HELD).await;
    assert_ne!(cen.digests(down, true).await, empty);
    assert_eq!(cen.digests(down, true).await, p01.digests(up, false).await);

    p01.run(
        "UPDATE objects SET deleted = true WHERE object_id = (SELECT min(object_id::text)::uuid FROM objects);
         DELETE FROM objects WHERE object_id = (SELECT max(object_id::text)::uuid FROM objects);
         INSERT INTO objects (kind, object_id, owner_site_code, via_site_code, definition)
         VALUES (1, gen_random_uuid(), 'CEN', 'CEN', '')",
    )
    .await;
    let differing = cen
        .digests(down, true)
        .await
        .differing(0, p01.digests(up, false).await.within(&ALL))
        .unwrap();
    assert!((1..=3).contains(&differing.len()), "{differing:?}");
    let buckets: Vec<u32> = differing
        .iter()
        .map(|at| u32::try_from(*at).unwrap())
        .collect();
    let db = cen.site.db().await.unwrap();
    digests::mark_buckets(&db, &down, &buckets).await.unwrap();
    let sent = carry(&cen, &p01, true).await;
    assert!(sent.len() < 20, "only what is in these buckets");
    for bucket in buckets {
        let listed = digests::listing(&db, &down, bucket).await.unwrap();
        let theirs = p01.site.db().await.unwrap();
        let removed = digests::remove_unlisted(&theirs, &up, bucket, &listed).await;
        removed.unwrap();
    }
    assert_eq!(cen.digests(down, true).await, p01.digests(up, false).await);
    assert_eq!(p01.text(HELD).await, held);
}

#[tokio::test]
async fn a_change_that_commits_while_a_batch_is_put_together_is_not_lost() {
    let (cen, _p01) = pair().await;
    let down = neighbour("P01", false);
    cen.collection("Servers", &[]).await.unwrap();
    let (mut one, mut other) = (cen.site.db().await.unwrap(), cen.site.db().await.unwrap());
    let collection = cen
        .text("SELECT collection_id::text FROM collections WHERE NOT built_in")
        .await;
    let id: Uuid = collection.parse().unwrap();
    let describe = "UPDATE collections SET description = $1 WHERE NOT built_in";

    // The change first: whoever takes its mark waits for its commit.
    let change = one.transaction().await.unwrap();
    change.execute(describe, &[&"first"]).await.unwrap();
    changed(&change, ObjectKind::Collection, &[id])
        .await
        .unwrap();
    let site = std::sync::Arc::clone(&cen.site);
    let mut batch = tokio::task::JoinSet::new();
    batch.spawn(async move {
        let mut db = site.db().await.unwrap();
        let tx = db.transaction().await.unwrap();
        let taken = take(&site, &tx, down, MANY).await.unwrap();
        tx.commit().await.unwrap();
        taken
    });
    let early = tokio::time::timeout(Duration::from_millis(300), batch.join_next()).await;
    assert!(early.is_err(), "the batch did not wait");
    change.commit().await.unwrap();
    let described = |taken: &[pb::Object]| {
        let definition = pb::CollectionDefinition::decode(taken[0].definition.clone()).unwrap();
        definition.description
    };
    assert_eq!(
        described(&batch.join_next().await.unwrap().unwrap()),
        "first"
    );

    // The batch first: the change is marked anew.
    changed(&other, ObjectKind::Collection, &[id])
        .await
        .unwrap();
    let batch = one.transaction().await.unwrap();
    let taken = take(&cen.site, &batch, down, MANY).await.unwrap();
    assert_eq!(described(&taken), "first");
    let change = other.transaction().await.unwrap();
    change.execute(describe, &[&"second"]).await.unwrap();
    let ids = [id];
    let marked = changed(&change, ObjectKind::Collection, &ids);
    let (marked, committed) = tokio::join!(marked, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        batch.commit().await
    });
    marked.unwrap();
    committed.unwrap();
    change.commit().await.unwrap();
    assert_eq!(described(&cen.take(down).await), "second");
}
