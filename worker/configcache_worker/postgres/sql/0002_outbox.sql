-- The outbox: commands that a transaction asks for, which `configcache relay` publishes once it has committed.
--
-- A row is inserted, published and deleted; nothing updates it, and there is no unique constraint on purpose. Merging a
-- command into an equal one that is pending loses it: that one may have been published a moment ago, or belong to a
-- transaction that rolls back, and waiting for it to end would make writers wait for each other.
--
-- The constraints are the rules of the contract, so that whatever is in the outbox can be published.
CREATE TABLE configuration_cache_outbox (
    id                 bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    application        text        NOT NULL,
    instance           text        NOT NULL,
    for_all_associates boolean     NOT NULL,
    associate_id       bigint,
    enqueued_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT configuration_cache_outbox_associate CHECK (
        CASE WHEN for_all_associates THEN associate_id IS NULL ELSE coalesce(associate_id >= 1, false) END
    )
);

-- Always small or about to be: at the usual settings a queue that has drained would be looked through again and again.
ALTER TABLE configuration_cache_outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE configuration_cache_outbox IS 'Commands to publish. Emptied by `configcache relay`.';

-- What is wrong with a name, in words that begin with the contract's reason; null if nothing is. The white space is what
-- Python's str.strip() removes, the control characters are those of Unicode's category Cc. E'' with two backslashes means
-- the same whatever standard_conforming_strings says; the escapes are then the regular expression's, in any encoding.
CREATE FUNCTION configuration_cache_fault_of_name(property text, name text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN name IS NULL THEN 'missing-' || property || ': ' || property || ' is required'
        WHEN char_length(name) NOT BETWEEN 1 AND 254
            THEN 'invalid-' || property || ': ' || property || ' must have 1 to 254 characters'
        WHEN name ~ E'[\\u0001-\\u001F\\u007F-\\u009F]'
            THEN 'invalid-' || property || ': ' || property
                || ' must not contain control characters (such as a line break or a tab)'
        WHEN name ~ E'^[\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000]'
            OR name ~ E'[\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000]$'
            THEN 'invalid-' || property || ': ' || property
                || ' must not be blank, nor begin or end with white space'
    END
$$;

ALTER TABLE configuration_cache_outbox
    ADD CONSTRAINT configuration_cache_outbox_application
        CHECK (configuration_cache_fault_of_name('application', application) IS NULL),
    ADD CONSTRAINT configuration_cache_outbox_instance
        CHECK (configuration_cache_fault_of_name('instance', instance) IS NULL);

-- Ask for a clear in the current transaction: it is published after the commit, and never after a rollback.
--
--   SELECT enqueue_clear_configuration_cache('WebClient', 'Web', true);
--   SELECT enqueue_clear_configuration_cache('WebClient', 'Web', false, 42);
--
-- Runs with the rights of its owner, so that the right to execute it is all that a producer needs.
CREATE FUNCTION enqueue_clear_configuration_cache(
    application        text,
    instance           text,
    for_all_associates boolean DEFAULT false,
    associate_id       bigint DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    fault text := coalesce(
        configuration_cache_fault_of_name('application', application),
        configuration_cache_fault_of_name('instance', instance),
        CASE
            WHEN for_all_associates IS NULL
                THEN 'invalid-for-all-associates: for_all_associates must be true or false'
            WHEN associate_id < 1
                THEN 'invalid-associate-id: associate_id must be from 1 to 9223372036854775807'
            WHEN for_all_associates AND associate_id IS NOT NULL
                THEN 'unexpected-associate: for_all_associates is true, so associate_id must be null'
            WHEN NOT for_all_associates AND associate_id IS NULL
                THEN 'missing-associate: for_all_associates is false, so associate_id must name whose rows to clear'
        END
    );
BEGIN
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = fault;
    END IF;
    INSERT INTO configuration_cache_outbox (application, instance, for_all_associates, associate_id)
    VALUES (
        enqueue_clear_configuration_cache.application,
        enqueue_clear_configuration_cache.instance,
        enqueue_clear_configuration_cache.for_all_associates,
        enqueue_clear_configuration_cache.associate_id
    );
    -- Of equal notifications in a transaction the server sends one, so this costs nothing when it is repeated.
    PERFORM pg_notify('configuration_cache_outbox', '');
END
$$;

-- A function with its owner's rights must not look for tables where its caller says, temporary ones included.
DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION enqueue_clear_configuration_cache(text, text, boolean, bigint)'
            ' SET search_path = pg_catalog, %I, pg_temp',
        current_schema()
    );
END
$$;

REVOKE ALL ON FUNCTION enqueue_clear_configuration_cache(text, text, boolean, bigint) FROM PUBLIC;
