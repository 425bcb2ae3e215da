-- The hierarchy: which sites there are, what is under way to and from our neighbours, and who owns
-- what. NULL as an owner is this site itself.
ALTER TABLE sites
    -- The child of ours through which we know it; NULL: ourselves, or a site above us.
    ADD COLUMN via_site_code text,
    -- An encoded muster.link.v1.SiteRecord as it came, relayed byte for byte; NULL for our own.
    ADD COLUMN record bytea,
    ADD COLUMN gone_at timestamptz;

ALTER TABLE clients
    ADD COLUMN owner_site_code text,
    -- The child that told us of it; NULL: it is ours.
    ADD COLUMN via_site_code text,
    -- What only its own site knows of it.
    ALTER COLUMN machine_id_hash DROP NOT NULL,
    ALTER COLUMN certificate_fingerprint DROP NOT NULL,
    ALTER COLUMN certificate_ends_at DROP NOT NULL;
CREATE INDEX clients_by_owner ON clients (owner_site_code) WHERE owner_site_code IS NOT NULL;

-- Names are unique per owner: nobody below can take a name away from those above, nor the other way.
ALTER TABLE collections ADD COLUMN owner_site_code text;
ALTER TABLE update_lists ADD COLUMN owner_site_code text;
ALTER TABLE packages ADD COLUMN owner_site_code text;
ALTER TABLE deployments ADD COLUMN owner_site_code text;
DROP INDEX collections_by_name, update_lists_by_name, packages_by_name, deployments_by_name;
CREATE UNIQUE INDEX collections_by_name ON collections (lower(name), owner_site_code) NULLS NOT DISTINCT;
CREATE UNIQUE INDEX update_lists_by_name ON update_lists (lower(name), owner_site_code) NULLS NOT DISTINCT;
CREATE UNIQUE INDEX packages_by_name ON packages (lower(name), owner_site_code) NULLS NOT DISTINCT;
CREATE UNIQUE INDEX deployments_by_name ON deployments (lower(name), owner_site_code) NULLS NOT DISTINCT;

-- What administrators made, here or elsewhere, as it travels. The tables of collections, lists,
-- packages and deployments follow from it where others own it; where we own it, it follows from them.
CREATE TABLE objects (
    kind            smallint NOT NULL CHECK (kind BETWEEN 1 AND 4),
    object_id       uuid     NOT NULL,
    owner_site_code text,
    -- The neighbour that told us of it; NULL: it is ours.
    via_site_code   text,
    deleted         boolean  NOT NULL DEFAULT false,
    definition      bytea    NOT NULL,
    PRIMARY KEY (kind, object_id)
);

-- Members of a replicated collection that this site does not know yet.
CREATE TABLE collection_waiting_members (
    collection_no integer NOT NULL REFERENCES collections (collection_no) ON DELETE CASCADE,
    client_id     uuid    NOT NULL,
    PRIMARY KEY (collection_no, client_id)
);
CREATE INDEX collection_waiting_members_by_client ON collection_waiting_members (client_id);

-- Updates that replicated lists, packages and deployments name and our catalog does not have yet.
CREATE TABLE waiting_updates (
    kind      smallint NOT NULL CHECK (kind BETWEEN 2 AND 4),
    object_id uuid     NOT NULL,
    update_no integer  NOT NULL,
    PRIMARY KEY (kind, object_id, update_no)
);
CREATE INDEX waiting_updates_by_update ON waiting_updates (update_no);

-- Our neighbours, with both ends of crate muster-link.
CREATE TABLE links (
    peer_site_code text        PRIMARY KEY CHECK (peer_site_code ~ '^[A-Z0-9]{3}$'),
    peer_name      text        NOT NULL,
    is_parent      boolean     NOT NULL,
    -- Ed25519: signs what the peer sends.
    public_key     bytea       NOT NULL CHECK (length(public_key) = 32),
    peer_protocol  integer     NOT NULL,
    peer_version   text        NOT NULL DEFAULT '',
    -- Of a parent and of those above it, nearest first.
    lineage        text[]      NOT NULL DEFAULT '{}',
    joined_at      timestamptz NOT NULL DEFAULT now(),
    -- What we send: the epoch, and up to where the peer's database has it.
    out_epoch      integer     NOT NULL DEFAULT 1,
    out_acked_seq  bigint      NOT NULL DEFAULT 0,
    out_acked_chain bytea      NOT NULL DEFAULT '\x00000000000000000000000000000000',
    -- What we receive: up to where our database has it.
    in_epoch       integer     NOT NULL DEFAULT 0,
    in_seq         bigint      NOT NULL DEFAULT 0,
    in_chain       bytea       NOT NULL DEFAULT '\x00000000000000000000000000000000',
    heard_at       timestamptz,
    -- A stable word, a colon, and text for people; NULL: nothing is wrong.
    refusal        text,
    -- Of a child: the certificate that it got last, with which it may leave.
    certificate_fingerprint text
);
CREATE UNIQUE INDEX links_one_parent ON links (is_parent) WHERE is_parent;

-- How we reach the parent's broker. Secrets: no view shows this table.
CREATE TABLE parent_broker (
    peer_site_code text PRIMARY KEY REFERENCES links (peer_site_code) ON DELETE CASCADE,
    uri            text NOT NULL,
    username       text NOT NULL,
    password       text NOT NULL,
    ca             text NOT NULL,
    certificate    text NOT NULL,
    key            text NOT NULL,
    -- Where the parent serves gRPC.
    address        text NOT NULL DEFAULT ''
);

-- Numbered, and not yet in the peer's database.
CREATE TABLE link_batches (
    peer_site_code text        NOT NULL REFERENCES links (peer_site_code) ON DELETE CASCADE,
    seq            bigint      NOT NULL,
    -- The chain up to this batch.
    chain          bytea       NOT NULL,
    -- The encoded, signed message.
    message        bytea       NOT NULL,
    items          integer     NOT NULL,
    numbered_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (peer_site_code, seq)
);

-- Clients of which the parent is to hear: one row per transaction that changed something. Taken off
-- by number in the transaction that numbers their batch, never "all after the last one", which
-- would lose what commits late (reliability.md 2.3).
CREATE TABLE dirty_clients (
    mark_no    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_nos integer[]   NOT NULL,
    marked_at  timestamptz NOT NULL DEFAULT now()
);

-- Objects and sites of which a neighbour is to hear; the keys coalesce.
CREATE TABLE dirty_objects (
    peer_site_code text        NOT NULL REFERENCES links (peer_site_code) ON DELETE CASCADE,
    kind           smallint    NOT NULL,
    object_id      uuid        NOT NULL,
    marked_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (peer_site_code, kind, object_id)
);
CREATE TABLE dirty_sites (
    peer_site_code text        NOT NULL REFERENCES links (peer_site_code) ON DELETE CASCADE,
    site_code      text        NOT NULL,
    marked_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (peer_site_code, site_code)
);

-- Buckets of keys that the peer found different, to be sent in full and listed.
CREATE TABLE repair_buckets (
    peer_site_code text     NOT NULL REFERENCES links (peer_site_code) ON DELETE CASCADE,
    clients        boolean  NOT NULL,
    bucket         smallint NOT NULL,
    PRIMARY KEY (peer_site_code, clients, bucket)
);

-- One-use tokens with which sites join.
CREATE TABLE site_invitations (
    token_hash   bytea       PRIMARY KEY CHECK (length(token_hash) = 32),
    site_code    text        NOT NULL CHECK (site_code ~ '^[A-Z0-9]{3}$'),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz,
    -- Of the site that used it: only that one may repeat its call.
    used_key     bytea,
    CHECK ((used_at IS NULL) = (used_key IS NULL))
);

-- What goes to a neighbour: ours in any case, what a child told us of to the parent, what the parent
-- told us of to the children. Ours are where they are made, deleted ones as objects.
CREATE FUNCTION travelling_objects(to_parent boolean)
    RETURNS TABLE (kind smallint, object_id uuid) LANGUAGE sql STABLE AS $$
    SELECT 1::smallint, collection_id FROM collections
    WHERE owner_site_code IS NULL AND NOT built_in
    UNION ALL SELECT 2::smallint, update_list_id FROM update_lists WHERE owner_site_code IS NULL
    UNION ALL SELECT 3::smallint, package_id FROM packages WHERE owner_site_code IS NULL
    UNION ALL SELECT 4::smallint, deployment_id FROM deployments WHERE owner_site_code IS NULL
    UNION ALL SELECT o.kind, o.object_id FROM objects o WHERE o.owner_site_code IS NULL AND o.deleted
    UNION ALL SELECT o.kind, o.object_id FROM objects o
    JOIN links l ON l.peer_site_code = o.via_site_code WHERE l.is_parent <> to_parent
$$;
