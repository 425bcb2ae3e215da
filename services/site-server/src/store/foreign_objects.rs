//! Collections, update lists, packages and deployments of other sites in the tables of their kind.
//! What a definition names and this site does not know (clients, updates) waits for it here.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use muster_proto::link::ObjectKind;
use tokio_postgres::Row;
use uuid::Uuid;

use super::collections::ALL_SYSTEMS;
use super::objects::Key;
use super::{deployments, execute, named, packages, query, query_one, query_opt};
use crate::app::Error;

/// A definition that was checked: texts are clean, ids are ids, numbers are in range.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) id: Uuid,
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) of_kind: OfKind,
}

/// What differs by kind.
#[derive(Debug)]
pub(crate) enum OfKind {
    Collection {
        description: String,
        members: Vec<Uuid>,
    },
    UpdateList {
        description: String,
        updates: Vec<i32>,
    },
    Package {
        all_leaves: bool,
        list: Option<Uuid>,
        updates: Vec<i32>,
    },
    Deployment {
        collection: Uuid,
        list: Option<Uuid>,
        updates: Vec<i32>,
        available_at: Timestamp,
        deadline_at: Option<Timestamp>,
        suppress_restart: bool,
        verbosity: i16,
    },
}

/// What a row of one of the kinds is called here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) number: i32,
    pub(crate) owner: Option<String>,
    pub(crate) name: String,
}

impl Numbered {
    /// How people here write it.
    pub(crate) fn label(&self) -> String {
        named::label(self.owner.as_deref(), &self.name)
    }
}

fn numbered(row: &Row) -> Numbered {
    Numbered {
        number: row.get("number"),
        owner: row.get("owner_site_code"),
        name: row.get("name"),
    }
}

/// Who owns these objects, by the tables of their kinds: those that we made (`None`) have no other
/// row before somebody is told of them.
pub(crate) async fn owners(
    db: &impl GenericClient,
    keys: &[Key],
) -> Result<Vec<(Key, Option<String>)>, Error> {
    const SQL: &str = "
        SELECT 1::int2 AS kind, collection_id AS id, owner_site_code FROM collections
        WHERE collection_id = ANY ($1)
        UNION ALL SELECT 2::int2, update_list_id, owner_site_code FROM update_lists
        WHERE update_list_id = ANY ($1)
        UNION ALL SELECT 3::int2, package_id, owner_site_code FROM packages
        WHERE package_id = ANY ($1)
        UNION ALL SELECT 4::int2, deployment_id, owner_site_code FROM deployments
        WHERE deployment_id = ANY ($1)";
    let ids: Vec<Uuid> = keys.iter().map(|key| key.1).collect();
    let rows = query(db, SQL, &[&ids]).await?;
    let owner = |row: &Row| {
        let key = (row.get("kind"), row.get("id"));
        (key, row.get("owner_site_code"))
    };
    Ok(rows.iter().map(owner).collect())
}

/// Gives way to a name: who has it and is somebody else is about to be deleted or renamed by its
/// owner, where names are unique. Returns who that was.
async fn give_way(db: &impl GenericClient, replica: &Replica) -> Result<Option<Numbered>, Error> {
    const COLLECTIONS: &str = "
        UPDATE collections SET name = name || ' ' || collection_id
        WHERE lower(name) = lower($1) AND owner_site_code = $2 AND collection_id <> $3
        RETURNING collection_no AS number, owner_site_code, name";
    const LISTS: &str = "
        UPDATE update_lists SET name = name || ' ' || update_list_id
        WHERE lower(name) = lower($1) AND owner_site_code = $2 AND update_list_id <> $3
        RETURNING update_list_no AS number, owner_site_code, name";
    const PACKAGES: &str = "
        UPDATE packages SET name = name || ' ' || package_id
        WHERE lower(name) = lower($1) AND owner_site_code = $2 AND package_id <> $3
        RETURNING package_no AS number, owner_site_code, name";
    const DEPLOYMENTS: &str = "
        UPDATE deployments SET name = name || ' ' || deployment_id
        WHERE lower(name) = lower($1) AND owner_site_code = $2 AND deployment_id <> $3
        RETURNING deployment_no AS number, owner_site_code, name";
    let sql = match replica.of_kind {
        OfKind::Collection { .. } => COLLECTIONS,
        OfKind::UpdateList { .. } => LISTS,
        OfKind::Package { .. } => PACKAGES,
        OfKind::Deployment { .. } => DEPLOYMENTS,
    };
    let row = query_opt(db, sql, &[&replica.name, &replica.owner, &replica.id]).await?;
    Ok(row.as_ref().map(numbered))
}

/// How a replica is written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// `None`: a deployment to a collection that there is not.
    pub(crate) number: Option<i32>,
    /// One that was called the same has another name now.
    pub(crate) gave_way: Option<Numbered>,
}

/// Writes a replica.
pub(crate) async fn keep(db: &impl GenericClient, replica: &Replica) -> Result<Written, Error> {
    let gave_way = give_way(db, replica).await?;
    let Replica {
        id,
        owner,
        name,
        created_at,
        ..
    } = replica;
    let number = match &replica.of_kind {
        OfKind::Collection {
            description,
            members,
        } => {
            const SQL: &str = "
                INSERT INTO collections AS held
                    (collection_id, owner_site_code, name, created_at, description)
                VALUES ($1, $2, $3, COALESCE($4, now()), $5)
                ON CONFLICT (collection_id) DO UPDATE SET
                    (owner_site_code, name, created_at, description) =
                    (excluded.owner_site_code, excluded.name, excluded.created_at,
                     excluded.description)
                RETURNING collection_no AS number";
            let params: super::Params<'_> = &[id, owner, name, created_at, description];
            let number: i32 = query_one(db, SQL, params).await?.get(0);
            set_members(db, number, members).await?;
            Some(number)
        }
        OfKind::UpdateList {
            description,
            updates,
        } => {
            const SQL: &str = "
                INSERT INTO update_lists AS held
                    (update_list_id, owner_site_code, name, created_at, description)
                VALUES ($1, $2, $3, COALESCE($4, now()), $5)
                ON CONFLICT (update_list_id) DO UPDATE SET
                    (owner_site_code, name, created_at, description) =
                    (excluded.owner_site_code, excluded.name, excluded.created_at,
                     excluded.description)
                RETURNING update_list_no AS number";
            let params: super::Params<'_> = &[id, owner, name, created_at, description];
            let number: i32 = query_one(db, SQL, params).await?.get(0);
            set_updates(db, ObjectKind::UpdateList, *id, number, updates).await?;
            Some(number)
        }
        OfKind::Package {
            all_leaves,
            list,
            updates,
        } => {
            const SQL: &str = "
                INSERT INTO packages AS held
                    (package_id, owner_site_code, name, created_at, all_leaves, update_list_no)
                VALUES ($1, $2, $3, COALESCE($4, now()), $5,
                        (SELECT update_list_no FROM update_lists WHERE update_list_id = $6))
                ON CONFLICT (package_id) DO UPDATE SET
                    (owner_site_code, name, created_at, all_leaves, update_list_no) =
                    (excluded.owner_site_code, excluded.name, excluded.created_at,
                     excluded.all_leaves, excluded.update_list_no)
                RETURNING package_no AS number";
            let params: super::Params<'_> = &[id, owner, name, created_at, all_leaves, list];
            let number: i32 = query_one(db, SQL, params).await?.get(0);
            set_updates(db, ObjectKind::Package, *id, number, updates).await?;
            Some(number)
        }
        OfKind::Deployment {
            collection,
            list,
            updates,
            available_at,
            deadline_at,
            suppress_restart,
            verbosity,
        } => {
            const SQL: &str = "
                INSERT INTO deployments AS held
                    (deployment_id, owner_site_code, name, created_at, collection_no,
                     update_list_no, available_at, deadline_at, suppress_restart, verbosity)
                SELECT $1, $2, $3, COALESCE($4, now()), c.collection_no,
                       (SELECT update_list_no FROM update_lists WHERE update_list_id = $6),
                       $7, $8, $9, $10
                FROM collections c WHERE c.collection_id = $5
                ON CONFLICT (deployment_id) DO UPDATE SET
                    (owner_site_code, name, created_at, collection_no, update_list_no,
                     available_at, deadline_at, suppress_restart, verbosity) =
                    (excluded.owner_site_code, excluded.name, excluded.created_at,
                     excluded.collection_no, excluded.update_list_no, excluded.available_at,
                     excluded.deadline_at, excluded.suppress_restart, excluded.verbosity)
                RETURNING deployment_no AS number";
            let params: super::Params<'_> = &[
                id,
                owner,
                name,
                created_at,
                collection,
                list,
                available_at,
                deadline_at,
                suppress_restart,
                verbosity,
            ];
            let row = query_opt(db, SQL, params).await?;
            let number: Option<i32> = row.map(|row| row.get(0));
            if let Some(number) = number {
                set_updates(db, ObjectKind::Deployment, *id, number, updates).await?;
            }
            number
        }
    };
    Ok(Written { number, gave_way })
}

/// A site below names whom it likes, but only clients that its way leads to are meant.
async fn set_members(
    db: &impl GenericClient,
    collection_no: i32,
    members: &[Uuid],
) -> Result<(), Error> {
    const REMOVE: &str = "
        DELETE FROM collection_members m WHERE m.collection_no = $1
        AND NOT EXISTS (SELECT FROM clients c JOIN unnest($2::uuid[]) AS named (client_id)
                        USING (client_id) WHERE c.client_no = m.client_no)";
    const ADD: &str = "
        INSERT INTO collection_members (collection_no, client_no)
        SELECT $1, c.client_no FROM clients c
        JOIN unnest($2::uuid[]) AS named (client_id) USING (client_id)
        WHERE c.deleted_at IS NULL AND NOT EXISTS (
            SELECT FROM collections k JOIN sites s ON s.site_code = k.owner_site_code
            WHERE k.collection_no = $1 AND s.via_site_code IS NOT NULL
              AND s.via_site_code IS DISTINCT FROM c.via_site_code)
        ON CONFLICT DO NOTHING";
    const FORGET: &str = "DELETE FROM collection_waiting_members WHERE collection_no = $1";
    const WAIT: &str = "
        INSERT INTO collection_waiting_members (collection_no, client_id)
        SELECT $1, named.client_id FROM unnest($2::uuid[]) AS named (client_id)
        WHERE NOT EXISTS (SELECT FROM clients c
                          WHERE c.client_id = named.client_id AND c.deleted_at IS NULL)
        ON CONFLICT DO NOTHING";
    execute(db, REMOVE, &[&collection_no, &members]).await?;
    execute(db, ADD, &[&collection_no, &members]).await?;
    execute(db, FORGET, &[&collection_no]).await?;
    execute(db, WAIT, &[&collection_no, &members]).await?;
    Ok(())
}

async fn set_updates(
    db: &impl GenericClient,
    kind: ObjectKind,
    id: Uuid,
    number: i32,
    updates: &[i32],
) -> Result<(), Error> {
    const LIST: [&str; 2] = [
        "DELETE FROM update_list_members WHERE update_list_no = $1 AND update_no <> ALL ($2)",
        "INSERT INTO update_list_members (update_list_no, update_no)
         SELECT $1, update_no FROM updates WHERE update_no = ANY ($2) ON CONFLICT DO NOTHING",
    ];
    const PACKAGE: [&str; 2] = [
        "DELETE FROM package_updates WHERE package_no = $1 AND update_no <> ALL ($2)",
        "INSERT INTO package_updates (package_no, update_no)
         SELECT $1, update_no FROM updates WHERE update_no = ANY ($2) ON CONFLICT DO NOTHING",
    ];
    const DEPLOYMENT: [&str; 2] = [
        "DELETE FROM deployment_updates WHERE deployment_no = $1 AND update_no <> ALL ($2)",
        "INSERT INTO deployment_updates (deployment_no, update_no)
         SELECT $1, update_no FROM updates WHERE update_no = ANY ($2) ON CONFLICT DO NOTHING",
    ];
    const FORGET: &str = "DELETE FROM waiting_updates WHERE kind = $1 AND object_id = $2";
    const WAIT: &str = "
        INSERT INTO waiting_updates (kind, object_id, update_no)
        SELECT $1, $2, named.update_no FROM unnest($3::int4[]) AS named (update_no)
        WHERE NOT EXISTS (SELECT FROM updates u WHERE u.update_no = named.update_no)
        ON CONFLICT DO NOTHING";
    let statements = match kind {
        ObjectKind::UpdateList => LIST,
        ObjectKind::Package => PACKAGE,
        ObjectKind::Deployment => DEPLOYMENT,
        ObjectKind::Unspecified | ObjectKind::Collection | ObjectKind::ClientMove => return Ok(()),
    };
    for sql in statements {
        execute(db, sql, &[&number, &updates]).await?;
    }
    execute(db, FORGET, &[&(kind as i16), &id]).await?;
    execute(db, WAIT, &[&(kind as i16), &id, &updates]).await?;
    Ok(())
}

/// Updates came that replicas named before: they are in them now. Returns of which kinds some
/// were, and the lists that have more.
pub(crate) async fn updates_arrived(
    db: &impl GenericClient,
    updates: &[i32],
) -> Result<(Vec<i16>, Vec<i32>), Error> {
    const LISTS: &str = "
        INSERT INTO update_list_members (update_list_no, update_no)
        SELECT l.update_list_no, w.update_no FROM waiting_updates w
        JOIN update_lists l ON w.kind = 2 AND l.update_list_id = w.object_id
        WHERE w.update_no = ANY ($1) ON CONFLICT DO NOTHING RETURNING update_list_no";
    const PACKAGES: &str = "
        INSERT INTO package_updates (package_no, update_no)
        SELECT p.package_no, w.update_no FROM waiting_updates w
        JOIN packages p ON w.kind = 3 AND p.package_id = w.object_id
        WHERE w.update_no = ANY ($1) ON CONFLICT DO NOTHING";
    const DEPLOYMENTS: &str = "
        INSERT INTO deployment_updates (deployment_no, update_no)
        SELECT d.deployment_no, w.update_no FROM waiting_updates w
        JOIN deployments d ON w.kind = 4 AND d.deployment_id = w.object_id
        WHERE w.update_no = ANY ($1) ON CONFLICT DO NOTHING";
    const FORGET: &str = "
        WITH gone AS (DELETE FROM waiting_updates WHERE update_no = ANY ($1) RETURNING kind)
        SELECT DISTINCT kind FROM gone";
    let rows = query(db, LISTS, &[&updates]).await?;
    let mut lists: Vec<i32> = rows.iter().map(|row| row.get("update_list_no")).collect();
    lists.sort_unstable();
    lists.dedup();
    execute(db, PACKAGES, &[&updates]).await?;
    execute(db, DEPLOYMENTS, &[&updates]).await?;
    let kinds = query(db, FORGET, &[&updates]).await?;
    Ok((kinds.iter().map(|row| row.get("kind")).collect(), lists))
}

/// What was removed, by number.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    pub(crate) collections: Vec<i32>,
    pub(crate) lists: Vec<i32>,
    pub(crate) packages: bool,
    pub(crate) deployments: Vec<i32>,
}

/// Removes replicas of packages and deployments, with what clients said of them. Collections and
/// lists go in [`sweep`], once nothing names them any more. The caller sees to it that no report
/// is recorded meanwhile.
pub(crate) async fn remove(
    db: &impl GenericClient,
    keys: &[Key],
    removed: &mut Removed,
) -> Result<(), Error> {
    const PACKAGES: &str = "
        SELECT package_no FROM packages
        WHERE package_id = ANY ($1) AND owner_site_code IS NOT NULL";
    const DEPLOYMENTS: &str = "
        SELECT deployment_no FROM deployments
        WHERE deployment_id = ANY ($1) AND owner_site_code IS NOT NULL";
    const WAITING: &str = "
        DELETE FROM waiting_updates w USING unnest($1::int2[], $2::uuid[]) AS k (kind, object_id)
        WHERE w.kind = k.kind AND w.object_id = k.object_id";
    let (kinds, ids): (Vec<i16>, Vec<Uuid>) = keys.iter().copied().unzip();
    for row in query(db, DEPLOYMENTS, &[&ids]).await? {
        let number = row.get(0);
        deployments::delete(db, number).await?;
        removed.deployments.push(number);
    }
    for row in query(db, PACKAGES, &[&ids]).await? {
        packages::delete(db, row.get(0)).await?;
        removed.packages = true;
    }
    execute(db, WAITING, &[&kinds, &ids]).await?;
    Ok(())
}

/// Removes collections and lists of others that their owner deleted, as soon as no deployment and no
/// package names them: somebody may have made one before hearing of it.
pub(crate) async fn sweep(db: &impl GenericClient, removed: &mut Removed) -> Result<(), Error> {
    const LISTS: &str = "
        DELETE FROM update_lists l WHERE l.owner_site_code IS NOT NULL
        AND NOT EXISTS (SELECT FROM objects o WHERE o.kind = 2
                        AND o.object_id = l.update_list_id AND NOT o.deleted)
        AND NOT EXISTS (SELECT FROM deployments d WHERE d.update_list_no = l.update_list_no)
        AND NOT EXISTS (SELECT FROM packages p WHERE p.update_list_no = l.update_list_no)
        RETURNING update_list_no";
    const COLLECTIONS: &str = "
        DELETE FROM collections c WHERE c.owner_site_code IS NOT NULL
        AND NOT EXISTS (SELECT FROM objects o WHERE o.kind = 1
                        AND o.object_id = c.collection_id AND NOT o.deleted)
        AND NOT EXISTS (SELECT FROM deployments d WHERE d.collection_no = c.collection_no)
        RETURNING collection_no";
    let lists = query(db, LISTS, &[]).await?;
    removed
        .lists
        .extend(lists.iter().map(|row| row.get::<_, i32>(0)));
    let collections = query(db, COLLECTIONS, &[]).await?;
    removed
        .collections
        .extend(collections.iter().map(|row| row.get::<_, i32>(0)));
    Ok(())
}

/// Number, owner, name and updates of these lists.
pub(crate) async fn lists(
    db: &impl GenericClient,
    numbers: &[i32],
) -> Result<Vec<(Numbered, Vec<i32>)>, Error> {
    const SQL: &str = "
        SELECT l.update_list_no AS number, l.owner_site_code, l.name,
               ARRAY(SELECT m.update_no FROM update_list_members m
                     WHERE m.update_list_no = l.update_list_no) AS updates
        FROM update_lists l WHERE l.update_list_no = ANY ($1)";
    let rows = query(db, SQL, &[&numbers]).await?;
    let list = |row: &Row| (numbered(row), row.get("updates"));
    Ok(rows.iter().map(list).collect())
}

/// Number, owner, name and members of these collections.
pub(crate) async fn collections(
    db: &impl GenericClient,
    numbers: &[i32],
) -> Result<Vec<(Numbered, Vec<i32>)>, Error> {
    const SQL: &str = "
        SELECT c.collection_no AS number, c.owner_site_code, c.name,
               ARRAY(SELECT m.client_no FROM collection_members m
                     WHERE m.collection_no = c.collection_no) AS members
        FROM collections c WHERE c.collection_no = ANY ($1) AND c.collection_no <> $2";
    let rows = query(db, SQL, &[&numbers, &ALL_SYSTEMS]).await?;
    let collection = |row: &Row| (numbered(row), row.get("members"));
    Ok(rows.iter().map(collection).collect())
}

/// A client in a collection: the number of the collection, that of the client.
pub(crate) type Membership = (i32, i32);

/// Clients that collections of others name are known now, and members. Returns where.
pub(crate) async fn members_arrived(
    db: &impl GenericClient,
    clients: &[Uuid],
) -> Result<Vec<Membership>, Error> {
    const SQL: &str = "
        WITH arrived AS (
            DELETE FROM collection_waiting_members w USING clients c
            WHERE w.client_id = ANY ($1) AND c.client_id = w.client_id AND c.deleted_at IS NULL
            RETURNING w.collection_no, c.client_no)
        INSERT INTO collection_members (collection_no, client_no)
        SELECT a.collection_no, a.client_no FROM arrived a
        JOIN clients c USING (client_no) JOIN collections k USING (collection_no)
        WHERE NOT EXISTS (
            SELECT FROM sites s WHERE s.site_code = k.owner_site_code
              AND s.via_site_code IS NOT NULL
              AND s.via_site_code IS DISTINCT FROM c.via_site_code)
        ON CONFLICT DO NOTHING
        RETURNING collection_no, client_no";
    let rows = query(db, SQL, &[&clients]).await?;
    Ok(rows.iter().map(membership).collect())
}

fn membership(row: &Row) -> Membership {
    (row.get("collection_no"), row.get("client_no"))
}

/// Clients leave all collections. In those of others they wait: whether they are named is up to
/// the owner. Returns where they were, and which of our collections name fewer now.
pub(crate) async fn members_left(
    db: &impl GenericClient,
    clients: &[i32],
) -> Result<(Vec<Membership>, Vec<Uuid>), Error> {
    const WAIT: &str = "
        INSERT INTO collection_waiting_members (collection_no, client_id)
        SELECT m.collection_no, k.client_id FROM collection_members m
        JOIN clients k USING (client_no) JOIN collections c USING (collection_no)
        WHERE m.client_no = ANY ($1) AND c.owner_site_code IS NOT NULL
        ON CONFLICT DO NOTHING";
    const LEAVE: &str = "
        DELETE FROM collection_members WHERE client_no = ANY ($1)
        RETURNING collection_no, client_no";
    const OURS: &str = "
        SELECT collection_id FROM collections
        WHERE collection_no = ANY ($1) AND owner_site_code IS NULL";
    execute(db, WAIT, &[&clients]).await?;
    let rows = query(db, LEAVE, &[&clients]).await?;
    let left: Vec<Membership> = rows.iter().map(membership).collect();
    let mut numbers: Vec<i32> = left
        .iter()
        .map(|(collection_no, _)| *collection_no)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let ours = if numbers.is_empty() {
        Vec::new()
    } else {
        query(db, OURS, &[&numbers]).await?
    };
    Ok((left, ours.iter().map(|row| row.get(0)).collect()))
}

/// The ids of our collections among these.
pub(crate) async fn our_collections(
    db: &impl GenericClient,
    numbers: &[i32],
) -> Result<Vec<Uuid>, Error> {
    const SQL: &str = "
        SELECT collection_id FROM collections
        WHERE collection_no = ANY ($1) AND owner_site_code IS NULL AND NOT built_in";
    let rows = query(db, SQL, &[&numbers]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
