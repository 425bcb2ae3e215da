-- One identity, one machine. A copied disk brings a client id and its key to a second machine; both
-- get a new key, and one of them a new id.

-- Certificates that have not expired and count no more. Management points refuse them.
CREATE TABLE denied_certificates (
    fingerprint bytea       PRIMARY KEY CHECK (length(fingerprint) = 32),
    client_no   integer     NOT NULL REFERENCES clients (client_no),
    replaced    boolean     NOT NULL,  -- by another one of this client; otherwise it was deleted
    denied_at   timestamptz NOT NULL DEFAULT now(),
    ends_at     timestamptz NOT NULL
);
CREATE INDEX denied_certificates_by_time ON denied_certificates (denied_at);
CREATE INDEX denied_certificates_by_client ON denied_certificates (client_no);
INSERT INTO denied_certificates (fingerprint, client_no, replaced, denied_at, ends_at)
SELECT decode(certificate_fingerprint, 'hex'), client_no, false, deleted_at, certificate_ends_at
FROM clients WHERE deleted_at IS NOT NULL;

-- Who asked for a new key, and got which identity. Who asks again with the same key gets the same
-- answer: it may have been lost.
CREATE TABLE identity_renewals (
    key_hash      bytea       PRIMARY KEY CHECK (length(key_hash) = 32),
    client_no     integer     NOT NULL REFERENCES clients (client_no),  -- asked in its name
    new_client_no integer     NOT NULL REFERENCES clients (client_no),  -- the same, or a clone
    epoch         integer     NOT NULL,
    certificate   bytea       NOT NULL,  -- DER
    run_id        bigint      NOT NULL,
    renewed_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX identity_renewals_by_new_client ON identity_renewals (new_client_no);

ALTER TABLE clients ADD COLUMN separated_from integer REFERENCES clients (client_no);
CREATE INDEX clients_by_separation ON clients (separated_from) WHERE separated_from IS NOT NULL;
