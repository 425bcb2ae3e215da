-- How many clients are in which state of a deployment: kept as the counters of updates are, moved
-- by the difference in the transaction that moves the rows, summed up in the background, exact at
-- any time through the view. A client without a row is in no state and is not counted.
CREATE TABLE deployment_counter_rows (
    deployment_no integer  NOT NULL REFERENCES deployments (deployment_no) ON DELETE CASCADE,
    topic         smallint NOT NULL CHECK (topic IN (300, 301, 302)),
    state         smallint NOT NULL,
    clients       integer  NOT NULL,
    PRIMARY KEY (deployment_no, topic, state)
) WITH (fillfactor = 70);

ALTER TABLE counter_moves
    ADD deployment_nos     integer[]  NOT NULL DEFAULT '{}',
    ADD deployment_topics  smallint[] NOT NULL DEFAULT '{}',  -- one for each of deployment_nos, as the two below
    ADD deployment_states  smallint[] NOT NULL DEFAULT '{}',
    ADD deployment_clients integer[]  NOT NULL DEFAULT '{}';
ALTER TABLE counter_moves
    ALTER deployment_nos SET STORAGE EXTERNAL, ALTER deployment_topics SET STORAGE EXTERNAL,
    ALTER deployment_states SET STORAGE EXTERNAL, ALTER deployment_clients SET STORAGE EXTERNAL;

INSERT INTO deployment_counter_rows (deployment_no, topic, state, clients)
SELECT s.deployment_no, t.topic, t.state, count(*)
FROM deployment_states s
CROSS JOIN LATERAL (VALUES (300, s.compliance), (301, s.enforcement), (302, s.evaluation))
    AS t (topic, state)
GROUP BY 1, 2, 3;

-- The moves of a deployment that was deleted meanwhile count for nothing.
CREATE VIEW deployment_counters AS
SELECT deployment_no, topic, state, sum(clients)::integer AS clients
FROM (SELECT deployment_no, topic, state, clients FROM deployment_counter_rows
      UNION ALL
      SELECT deployment_no, c.topic, c.state, c.clients
      FROM counter_moves m
      CROSS JOIN LATERAL unnest(m.deployment_nos, m.deployment_topics, m.deployment_states,
                                m.deployment_clients)
          AS c (deployment_no, topic, state, clients)
      JOIN deployments USING (deployment_no)) AS moved
GROUP BY deployment_no, topic, state HAVING sum(clients) <> 0;

-- A client is never removed from clients, and no report is recorded while a deployment is
-- deleted: looking both up for each row, and locking the one deployment that everybody speaks of,
-- cost more than it told.
ALTER TABLE deployment_states
    DROP CONSTRAINT deployment_states_client_no_fkey,
    DROP CONSTRAINT deployment_states_deployment_no_fkey;
ALTER TABLE update_enforcement_states
    DROP CONSTRAINT update_enforcement_states_client_no_fkey,
    DROP CONSTRAINT update_enforcement_states_deployment_no_fkey;
