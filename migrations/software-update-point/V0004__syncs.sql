-- The history of synchronisations. The phases are the status message ids of semantics.md 2.6.
CREATE TABLE syncs (
    sync_no          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind             smallint    NOT NULL CHECK (kind IN (1, 2)),  -- 1 delta, 2 full
    phase            smallint    NOT NULL,
    started_at       timestamptz NOT NULL,
    ended_at         timestamptz,
    detail           text        NOT NULL DEFAULT '',
    reason           text        NOT NULL DEFAULT '',
    stanzas          bigint      NOT NULL DEFAULT 0,
    stanzas_rejected bigint      NOT NULL DEFAULT 0,
    updates_new      integer     NOT NULL DEFAULT 0,
    updates_modified integer     NOT NULL DEFAULT 0,
    updates_expired  integer     NOT NULL DEFAULT 0,
    bytes_fetched    bigint      NOT NULL DEFAULT 0,
    generation       bigint      NOT NULL DEFAULT 0
);

-- Stanzas of an index that were not taken, the first thousand of each synchronisation.
CREATE TABLE rejected_stanzas (
    sync_no bigint  NOT NULL REFERENCES syncs (sync_no),
    item    integer NOT NULL,
    suite   text    NOT NULL,
    path    text    NOT NULL,
    line    bigint  NOT NULL,
    package text,
    reason  text    NOT NULL,
    PRIMARY KEY (sync_no, item)
);
