-- Runs once, when the data folder is created: one role for each part, with passwords for local development only.

CREATE ROLE setup LOGIN PASSWORD 'setup-local';
CREATE ROLE worker LOGIN PASSWORD 'worker-local';
CREATE ROLE builder LOGIN PASSWORD 'builder-local';
CREATE ROLE relay LOGIN PASSWORD 'relay-local';
CREATE ROLE gateway LOGIN PASSWORD 'gateway-local';

REVOKE ALL ON DATABASE configcache FROM PUBLIC;
GRANT CONNECT ON DATABASE configcache TO setup, worker, builder, relay, gateway;

-- `configcache migrate` creates the tables as this role, which so owns them.
GRANT CREATE ON SCHEMA public TO setup;
