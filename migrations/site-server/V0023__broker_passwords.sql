-- What our broker keeps of the password of a child's user (a salted hash). When the broker has lost
-- everything, the user is made again with it; the password itself only the child knows.
ALTER TABLE links ADD COLUMN broker_password_hash text;
