-- Which states of a deployment clients send (semantics.md 2.2): 0 none, 1 errors, 5 successes, 10 all.
ALTER TABLE deployments
    ADD COLUMN verbosity smallint NOT NULL DEFAULT 10 CHECK (verbosity IN (0, 1, 5, 10));
