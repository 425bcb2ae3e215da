-- Clients that become another site's while they report. The central site decides, and what it decided travels
-- down to both sites: one row for each client, that of its last move.
CREATE TABLE client_moves (
    client_id     uuid PRIMARY KEY,
    move_no       bigint NOT NULL CHECK (move_no > 0),  -- grows with each move of the client
    to_site_code  text NOT NULL,
    arrived       boolean NOT NULL DEFAULT false,  -- the other site has it
    definition    bytea NOT NULL,  -- an encoded muster.link.v1.ClientMoveDefinition
    owner_site_code text  -- NULL: decided here
);

-- By which numbers children named clients that came to us by another child afterwards: what they said of them
-- may still be on its way.
CREATE TABLE moved_numbers (
    via_site_code text NOT NULL,
    via_client_no integer NOT NULL,
    client_id     uuid NOT NULL,
    PRIMARY KEY (via_site_code, via_client_no)
);

-- The move by which a client came to its site.
ALTER TABLE clients ADD COLUMN move_no bigint NOT NULL DEFAULT 0;

ALTER TABLE objects DROP CONSTRAINT objects_kind_check;
ALTER TABLE objects ADD CONSTRAINT objects_kind_check CHECK (kind BETWEEN 1 AND 5);

-- As before, and moves: they go down only.
CREATE OR REPLACE FUNCTION travelling_objects(to_parent boolean)
    RETURNS TABLE (kind smallint, object_id uuid) LANGUAGE sql STABLE AS $$
    SELECT 1::smallint, collection_id FROM collections
    WHERE owner_site_code IS NULL AND NOT built_in
    UNION ALL SELECT 2::smallint, update_list_id FROM update_lists WHERE owner_site_code IS NULL
    UNION ALL SELECT 3::smallint, package_id FROM packages WHERE owner_site_code IS NULL
    UNION ALL SELECT 4::smallint, deployment_id FROM deployments WHERE owner_site_code IS NULL
    UNION ALL SELECT 5::smallint, client_id FROM client_moves WHERE owner_site_code IS NULL AND NOT to_parent
    UNION ALL SELECT o.kind, o.object_id FROM objects o WHERE o.owner_site_code IS NULL AND o.deleted
    UNION ALL SELECT o.kind, o.object_id FROM objects o
    JOIN links l ON l.peer_site_code = o.via_site_code WHERE l.is_parent <> to_parent
$$;
