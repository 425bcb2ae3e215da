-- This site itself, and the two numbers that everything else is measured by: the revision of
-- policy (grows with every change that a client could see) and the catalog generation taken
-- over from the software update point.
CREATE TABLE sites (
    site_code        text        PRIMARY KEY CHECK (site_code ~ '^[A-Z0-9]{3}$'),
    name             text        NOT NULL,
    parent_site_code text,
    created_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE policy_revision (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint  NOT NULL
);
INSERT INTO policy_revision (revision) VALUES (1);

CREATE TABLE catalog_state (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    generation bigint      NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO catalog_state (generation) VALUES (0);
