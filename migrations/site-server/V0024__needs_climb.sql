-- Packages made at a site above are filled with the files that clients below need, so the parent is
-- told of each need once.
ALTER TABLE update_leaf_needs ADD COLUMN told boolean NOT NULL DEFAULT false;
CREATE INDEX update_leaf_needs_to_tell ON update_leaf_needs (update_no, package) WHERE NOT told;
