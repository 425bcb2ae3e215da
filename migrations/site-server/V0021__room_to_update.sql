-- Rows that are written again with almost every report get room on their pages: the new version
-- goes beside the old one, needs no entry in any index, and whoever comes to the page next clears
-- the old one away. Pages that are full already get there as their rows move.
ALTER TABLE report_stream_rows SET (fillfactor = 60);
ALTER TABLE deployment_states SET (fillfactor = 60);
ALTER TABLE update_enforcement_states SET (fillfactor = 60);
