-- Lists of updates that people put together once and then report on, package and deploy.
CREATE TABLE update_lists (
    update_list_no integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    update_list_id uuid        NOT NULL UNIQUE,
    name           text        NOT NULL,
    description    text        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX update_lists_by_name ON update_lists (lower(name));

CREATE TABLE update_list_members (
    update_list_no integer NOT NULL REFERENCES update_lists (update_list_no) ON DELETE CASCADE,
    update_no      integer NOT NULL REFERENCES updates (update_no),
    PRIMARY KEY (update_list_no, update_no)
);
