-- Sets of clients by direct membership. "All systems" is number 1 and has no rows of members:
-- everybody is in it.
CREATE TABLE collections (
    collection_no integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id uuid        NOT NULL UNIQUE,
    name          text        NOT NULL,
    description   text        NOT NULL,
    built_in      boolean     NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now()
);
-- People write "all systems" and mean "All systems".
CREATE UNIQUE INDEX collections_by_name ON collections (lower(name));
INSERT INTO collections (collection_id, name, description, built_in)
VALUES ('00000000-0000-0000-0000-000000000001', 'All systems', 'Every client of the site.', true);

CREATE TABLE collection_members (
    collection_no integer NOT NULL REFERENCES collections (collection_no) ON DELETE CASCADE,
    client_no     integer NOT NULL REFERENCES clients (client_no),
    PRIMARY KEY (collection_no, client_no)
);
CREATE INDEX collection_members_by_client ON collection_members (client_no);

-- Which collections a client joins that enrols with a token.
CREATE TABLE enrolment_token_collections (
    token_hash    bytea   NOT NULL REFERENCES enrolment_tokens (token_hash) ON DELETE CASCADE,
    collection_no integer NOT NULL REFERENCES collections (collection_no) ON DELETE CASCADE,
    PRIMARY KEY (token_hash, collection_no)
);
