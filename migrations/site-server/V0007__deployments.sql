-- What should be: these updates on the clients of this collection, from this time on. The id is
-- the same in the whole hierarchy (AssignmentUniqueID), the number belongs to this site.
CREATE TABLE deployments (
    deployment_no    integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    deployment_id    uuid        NOT NULL UNIQUE,
    name             text        NOT NULL,
    collection_no    integer     NOT NULL REFERENCES collections (collection_no),
    update_list_no   integer     REFERENCES update_lists (update_list_no),
    created_at       timestamptz NOT NULL DEFAULT now(),
    available_at     timestamptz NOT NULL,
    deadline_at      timestamptz,
    suppress_restart boolean     NOT NULL
);
CREATE UNIQUE INDEX deployments_by_name ON deployments (lower(name));
CREATE INDEX deployments_by_collection ON deployments (collection_no);

CREATE TABLE deployment_updates (
    deployment_no integer NOT NULL REFERENCES deployments (deployment_no) ON DELETE CASCADE,
    update_no     integer NOT NULL REFERENCES updates (update_no),
    PRIMARY KEY (deployment_no, update_no)
);
CREATE INDEX deployment_updates_by_update ON deployment_updates (update_no);
