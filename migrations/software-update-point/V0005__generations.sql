-- Which catalog's generation of a number it is: software update points below name the one they hold
-- by number and stamp. A catalog that comes from a backup, or was made anew, has other stamps.
CREATE TABLE generations (
    generation bigint PRIMARY KEY CHECK (generation > 0),
    stamp      bytea  NOT NULL CHECK (length(stamp) = 16)
);
INSERT INTO generations (generation, stamp)
SELECT generation, uuid_send(gen_random_uuid()) FROM catalog WHERE generation > 0;
