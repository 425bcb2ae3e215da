-- A child names its clients by its own numbers for them, which cost a byte instead of sixteen: each once
-- with who the client is, and from then on alone. They mean something on that link only.
ALTER TABLE clients ADD COLUMN via_client_no integer CHECK (via_client_no > 0);
CREATE UNIQUE INDEX clients_by_number_below ON clients (via_site_code, via_client_no)
    WHERE via_client_no IS NOT NULL;
