-- The filling side of the cache: who builds a row, and when what was built may be stored. docs/cache.md tells it at length.
--
-- A lease is permission to store one build. It is a row of the table like any other, so a clear deletes it with the rest,
-- and what was built from a configuration older than the clear finds no row left to be stored into. From psql:
--
--     SELECT * FROM configuration_cache_begin('WebClient', 'Web', 42, 'Contact');
--      xml set:             the cached XML, take it
--      lease set:           yours to build; read the configuration now, not before
--      only leased_until:   somebody else builds it until then at the latest; ask again in a moment
--     SELECT configuration_cache_store('WebClient', 'Web', 42, 'Contact', '<the lease>', '<xml/>');
--      true: stored; false: cleared or taken over meanwhile, so nobody else may get to see this XML
--     SELECT configuration_cache_release('WebClient', 'Web', 42, 'Contact', '<the lease>');
--      gives up the build
--
-- Each function is for a transaction of its own. Parameters are written as numbers, since their names are also columns.
-- A plan made while the table was empty would read all of it for ever after, hence enable_seqscan.

CREATE FUNCTION configuration_cache_begin(
    application  text,
    instance     text,
    associate_id bigint,
    item         text,
    lease_for    interval DEFAULT '30 seconds',
    refresh      boolean  DEFAULT false,
    new_lease    uuid     DEFAULT gen_random_uuid(),
    OUT xml          text,
    OUT lease        uuid,
    OUT leased_until timestamptz
)
LANGUAGE plpgsql
SET search_path FROM CURRENT
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    cached configuration_cache;
    fault  text;
BEGIN
    -- Most calls end here, and write nothing: the row is cached, or somebody is building it.
    SELECT * INTO cached FROM configuration_cache AS c
    WHERE c.application = $1 AND c.instance = $2 AND c.associate_id = $3 AND c.item = $4;
    IF $6 IS NOT TRUE AND (cached.xml IS NOT NULL OR cached.leased_until > clock_timestamp()) THEN
        xml := cached.xml;
        leased_until := cached.leased_until;
        RETURN;
    END IF;

    -- What no command can name would never be cleared.
    fault := coalesce(
        configuration_cache_fault_of_name('application', $1),
        configuration_cache_fault_of_name('instance', $2),
        CASE
            WHEN ($3 >= 1) IS NOT TRUE
                THEN 'invalid-associate-id: associate_id must be from 1 to 9223372036854775807'
            WHEN $4 IS NULL THEN 'item must not be null'
        END
    );
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'no command could ever clear this row'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = fault;
    END IF;
    IF ($5 > interval '0' AND $6 IS NOT NULL AND $7 IS NOT NULL) IS NOT TRUE THEN
        RAISE EXCEPTION 'lease_for must be longer than nothing; refresh and new_lease must not be null'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- Missing, expired, or to be refreshed. Of all who come at once, one gets the row.
    INSERT INTO configuration_cache AS c (application, instance, associate_id, item, lease, leased_until)
    VALUES ($1, $2, $3, $4, $7, clock_timestamp() + $5)
    ON CONFLICT (application, instance, associate_id, item) DO UPDATE
        SET lease = excluded.lease, leased_until = excluded.leased_until
        WHERE $6 OR (c.xml IS NULL AND (c.leased_until > clock_timestamp()) IS NOT TRUE)
    RETURNING c.lease, c.leased_until INTO lease, leased_until;
    IF NOT FOUND THEN
        SELECT c.xml, c.leased_until INTO xml, leased_until FROM configuration_cache AS c
        WHERE c.application = $1 AND c.instance = $2 AND c.associate_id = $3 AND c.item = $4;
    END IF;
END
$$;

CREATE FUNCTION configuration_cache_store(
    application  text,
    instance     text,
    associate_id bigint,
    item         text,
    lease        uuid,
    xml          text
) RETURNS boolean
LANGUAGE plpgsql
SET search_path FROM CURRENT
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    IF $6 IS NULL THEN
        RAISE EXCEPTION 'xml must not be null; configuration_cache_release gives up a build'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- Begun in this very transaction: no clear could see the lease while the configuration was read.
    IF EXISTS (
        SELECT FROM configuration_cache AS c
        WHERE c.application = $1 AND c.instance = $2 AND c.associate_id = $3 AND c.item = $4
            AND c.lease = $5 AND c.xmin = pg_current_xact_id_if_assigned()::xid
    ) THEN
        RAISE EXCEPTION 'configuration_cache_begin must be committed before the configuration is read'
            USING ERRCODE = 'invalid_transaction_state',
                HINT = 'Call begin and store in a transaction each.';
    END IF;
    -- An expired lease may still store: nobody has taken the row over, and nobody has cleared it.
    UPDATE configuration_cache AS c
    SET xml = $6, built_at = clock_timestamp(), lease = NULL, leased_until = NULL
    WHERE c.application = $1 AND c.instance = $2 AND c.associate_id = $3 AND c.item = $4
        AND c.lease = $5;
    RETURN FOUND;
END
$$;

CREATE FUNCTION configuration_cache_release(
    application  text,
    instance     text,
    associate_id bigint,
    item         text,
    lease        uuid
) RETURNS boolean
LANGUAGE plpgsql
SET search_path FROM CURRENT
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    DELETE FROM configuration_cache AS c
    WHERE c.application = $1 AND c.instance = $2 AND c.associate_id = $3 AND c.item = $4
        AND c.lease = $5 AND c.xml IS NULL;
    IF NOT FOUND THEN  -- a refresh: what was cached before it stays
        UPDATE configuration_cache AS c SET lease = NULL, leased_until = NULL
        WHERE c.application = $1 AND c.instance = $2 AND c.associate_id = $3 AND c.item = $4
            AND c.lease = $5;
    END IF;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION configuration_cache_begin(text, text, bigint, text, interval, boolean, uuid) IS
    'Take the cached XML, or a lease to build it. xml set: cached. lease set: build it. Neither: somebody else does.';
COMMENT ON FUNCTION configuration_cache_store(text, text, bigint, text, uuid, text) IS
    'Store what was built under a lease. False: cleared or taken over meanwhile, show it to nobody else.';
COMMENT ON FUNCTION configuration_cache_release(text, text, bigint, text, uuid) IS
    'Give up a build. False: the lease was gone already.';
