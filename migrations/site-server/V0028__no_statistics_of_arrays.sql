-- ANALYZE counts the elements of arrays, hundreds in each row: a second and more of a processor
-- each time, and nobody asks for rows by what is in them.
ALTER TABLE client_compliance_rows
    ALTER installed SET STATISTICS 0, ALTER required SET STATISTICS 0,
    ALTER unknown SET STATISTICS 0;
ALTER TABLE client_compliance_log
    ALTER update_nos SET STATISTICS 0, ALTER states SET STATISTICS 0;
ALTER TABLE counter_moves
    ALTER update_nos SET STATISTICS 0, ALTER installed SET STATISTICS 0,
    ALTER required SET STATISTICS 0, ALTER unknown SET STATISTICS 0;
