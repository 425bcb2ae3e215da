-- The generation in force, and the next number of an update. Whoever records a synchronisation
-- locks this row first, so two software update points of one site cannot both give out a number.
CREATE TABLE catalog (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    generation     bigint      NOT NULL CHECK (generation >= 0),
    next_update_no integer     NOT NULL CHECK (next_update_no > 0),  -- only grows: a number is never used again
    changed_at     timestamptz NOT NULL DEFAULT now()
);
INSERT INTO catalog (generation, next_update_no) VALUES (0, 1);
