-- Runs after each `configcache migrate`, as the owner of the tables. Safe to repeat.

-- UPDATE is for SELECT ... FOR UPDATE: rows are locked in one order before they are deleted.
GRANT SELECT, UPDATE, DELETE ON configuration_cache TO worker;

-- Who builds the configurations and reads them from the cache. DELETE is for a build that is given up: its row goes.
GRANT SELECT, INSERT, UPDATE, DELETE ON configuration_cache TO builder;

-- UPDATE is for SELECT ... FOR UPDATE here too. Services that enqueue get the right to execute
-- enqueue_clear_configuration_cache, and none to the table.
GRANT SELECT, UPDATE, DELETE ON configuration_cache_outbox TO relay;

-- All that the gateway reads. Of the tables behind the view it may see none.
GRANT SELECT ON gateway_credential TO gateway;
