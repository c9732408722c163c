-- Watched tables: a change of one enqueues a clear for all associates, in the transaction that makes the change.
--
--   SELECT configuration_cache_watch('externalapplication', 'WebClient', 'Web', '{updated_at}');
--   SELECT configuration_cache_unwatch('externalapplication');

-- The triggers' function; its arguments are the application, the instance, and the columns to ignore.
--
-- It runs with its owner's rights: whoever changes the table need not have, nor know of, any right on the outbox. Hence
-- "pg_catalog." below: a transition table may be called pg_attribute, and format() takes arguments of any type, so that a
-- function made for just these types would be preferred, were others allowed to make functions in this schema.
CREATE FUNCTION configuration_cache_watched() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    is_changed boolean;
    columns    text;
BEGIN
    -- A trigger made by hand may have no transition tables. Their names would then be looked up like those of any table,
    -- and a view in pg_temp would be run with these rights. Not asked of pg_trigger: to a transaction with an old snapshot
    -- it shows a trigger as it was, while the one that fires is the one that is there.
    IF to_regclass('configuration_cache_before') IS NOT NULL OR to_regclass('configuration_cache_after') IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_table_definition',
            MESSAGE = 'no table or view may be called configuration_cache_before or configuration_cache_after',
            DETAIL = pg_catalog.format('Watching %s takes these names for the rows that were changed.', TG_RELID::regclass);
    END IF;
    CASE TG_OP
        WHEN 'INSERT' THEN
            is_changed := EXISTS (SELECT FROM configuration_cache_after);
        WHEN 'DELETE' THEN
            is_changed := EXISTS (SELECT FROM configuration_cache_before);
        WHEN 'UPDATE' THEN
            -- The rows before and after, as multisets of texts: types without equality (json, xml) have a text too. By
            -- format() rather than a cast, since somebody may have defined a cast, which would run with these rights; and
            -- column by column, since what is ignored must be left out. Generated columns say nothing that others don't.
            SELECT string_agg(
                pg_catalog.format('pg_catalog.format(''%%L'', %I) COLLATE "C"', attname), ', ' ORDER BY attnum
            ) INTO columns
            FROM pg_catalog.pg_attribute
            WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
                AND attname <> ALL (TG_ARGV[2:]::name[]);
            IF columns IS NULL THEN
                is_changed := false;
            ELSE
                -- There are as many rows after as before, so one difference tells of both.
                EXECUTE pg_catalog.format(
                    'SELECT EXISTS (SELECT %1$s FROM configuration_cache_before'
                        ' EXCEPT ALL SELECT %1$s FROM configuration_cache_after)',
                    columns
                ) INTO is_changed;
            END IF;
        ELSE
            -- The server fires TRUNCATE triggers of a partitioned table and of all its partitions. A row that this very
            -- transaction has inserted is published after its commit, so one of them is enough.
            is_changed := NOT EXISTS (
                SELECT FROM configuration_cache_outbox AS o
                WHERE o.xmin = (txid_current() % 4294967296)::text::xid
                    AND (o.application, o.instance, o.for_all_associates) = (TG_ARGV[0], TG_ARGV[1], true)
            );
    END CASE;
    IF is_changed THEN
        PERFORM enqueue_clear_configuration_cache(TG_ARGV[0], TG_ARGV[1], true, NULL::bigint);
    END IF;
    RETURN NULL;
END
$$;

-- Watch a table, and all its partitions: a statement fires the triggers of the table that it names and of no other.
--
-- Watching it again for the same application and instance replaces the columns to ignore and takes in new partitions.
-- Takes the TRIGGER right on tables that were not watched, and SHARE ROW EXCLUSIVE locks: it waits for those who are
-- writing. Tables that are watched like this already are left alone. Where something else was ignored, triggers must go,
-- which takes the table's owner and ACCESS EXCLUSIVE locks: it waits for readers too, and they for it.
--
-- Returns how many tables are watched now, partitions included.
CREATE FUNCTION configuration_cache_watch(
    watched        regclass,
    application    text,
    instance       text,
    ignore_columns text[] DEFAULT '{}'
) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    fault     text;
    member    record;
    wanted    record;
    arguments text;
    stored    bytea;  -- the arguments as pg_trigger has them
    suffix    text := left(md5(application || E'\n' || instance), 12);
    count     integer := 0;
BEGIN
    IF watched IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'watched must name a table, not null';
    END IF;
    fault := coalesce(
        configuration_cache_fault_of_name('application', application),
        configuration_cache_fault_of_name('instance', instance)
    );
    IF fault IS NULL
        AND watched IN (to_regclass('configuration_cache'), 'configuration_cache_outbox'::regclass)
    THEN
        fault := format('%s can''t be watched: it is written by clears and builds themselves', watched);
    END IF;
    IF fault IS NULL THEN
        SELECT format('%s has no column %s to ignore', watched, quote_ident(name)) INTO fault
        FROM unnest(ignore_columns) AS name
        WHERE NOT EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = watched AND attname = name AND attnum > 0 AND NOT attisdropped
        )
        LIMIT 1;
    END IF;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = fault;
    END IF;
    SELECT
        string_agg(quote_literal(argument), ', ' ORDER BY n),
        string_agg(convert_to(argument, getdatabaseencoding()) || decode('00', 'hex'), decode('', 'hex') ORDER BY n)
    INTO arguments, stored
    FROM unnest(ARRAY[application, instance] || ignore_columns) WITH ORDINALITY AS a(argument, n);

    FOR member IN SELECT * FROM configuration_cache_members(watched) LOOP
        CASE member.kind
            WHEN 'r', 'p' THEN
                NULL;
            WHEN 'v', 'm' THEN
                RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
                    MESSAGE = format('%s is a view: watch the tables behind it', member.member);
            WHEN 'f' THEN
                RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
                    MESSAGE = format('%s is a foreign table: watch it on the server where it is', member.member);
            ELSE
                RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
                    MESSAGE = format('%s is no table', member.member);
        END CASE;
    END LOOP;
    FOR member IN SELECT * FROM configuration_cache_members(watched) LOOP
        count := count + 1;
        FOR wanted IN
            SELECT e.event, e.transition_tables, t.oid IS NOT NULL AS is_other,
                format('configuration_cache_watch_%s_%s', e.event, suffix) AS name
            FROM (VALUES
                ('insert', 'REFERENCING NEW TABLE AS configuration_cache_after'),
                ('update', 'REFERENCING OLD TABLE AS configuration_cache_before NEW TABLE AS configuration_cache_after'),
                ('delete', 'REFERENCING OLD TABLE AS configuration_cache_before'),
                ('truncate', '')
            ) AS e(event, transition_tables)
            LEFT JOIN pg_trigger AS t
                ON t.tgrelid = member.member AND t.tgname = format('configuration_cache_watch_%s_%s', e.event, suffix)
            -- One that is disabled is made anew.
            WHERE (t.tgfoid = 'configuration_cache_watched'::regproc AND t.tgargs = stored AND t.tgenabled IN ('O', 'A'))
                IS NOT TRUE
        LOOP
            IF wanted.is_other THEN
                EXECUTE format('DROP TRIGGER %I ON %s', wanted.name, member.member);
            END IF;
            EXECUTE format(
                'CREATE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION configuration_cache_watched(%s)',
                wanted.name, wanted.event, member.member, wanted.transition_tables, arguments
            );
        END LOOP;
    END LOOP;
    RETURN count;
END
$$;

-- Watch a table and its partitions no more: for one application and instance, or, without them, for any.
--
-- Takes the tables' owner, and ACCESS EXCLUSIVE locks: it waits for readers too, and they for it. Set lock_timeout.
-- Safe to repeat. Returns how many tables were watched, partitions included.
CREATE FUNCTION configuration_cache_unwatch(
    watched     regclass,
    application text DEFAULT NULL,
    instance    text DEFAULT NULL
) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    suffix text := left(md5(application || E'\n' || instance), 12);
    found  record;
    tables oid[] := '{}';
BEGIN
    IF (application IS NULL) <> (instance IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'application and instance must both be given, or neither';
    END IF;
    FOR found IN
        SELECT m.member, t.tgname
        FROM configuration_cache_members(watched) AS m
        JOIN pg_trigger AS t ON t.tgrelid = m.member
        WHERE t.tgfoid = 'configuration_cache_watched'::regproc
            AND (suffix IS NULL OR right(t.tgname, 12) = suffix)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', found.tgname, found.member);
        tables := tables || found.member::oid;
    END LOOP;
    RETURN (SELECT count(DISTINCT each) FROM unnest(tables) AS each);
END
$$;

-- A table with all its partitions, or children by inheritance, and theirs, from the top; each with its pg_class.relkind.
CREATE FUNCTION configuration_cache_members(watched regclass) RETURNS TABLE (member regclass, kind "char")
LANGUAGE sql STABLE
AS $$
    WITH RECURSIVE members AS (
        SELECT watched::oid AS oid, 0 AS depth
        UNION
        SELECT i.inhrelid, m.depth + 1 FROM members AS m JOIN pg_inherits AS i ON i.inhparent = m.oid
    )
    SELECT c.oid::regclass, c.relkind
    FROM (SELECT oid, min(depth) AS depth FROM members GROUP BY oid) AS m
    JOIN pg_class AS c ON c.oid = m.oid
    ORDER BY m.depth, c.oid
$$;

-- Where these functions find each other and the outbox, whoever calls them. A float is compared with all its digits, also
-- in a session that asks for fewer.
DO $$
DECLARE
    path text := format('pg_catalog, %I, pg_temp', current_schema());
BEGIN
    EXECUTE 'ALTER FUNCTION configuration_cache_watched() SET search_path = ' || path;
    EXECUTE 'ALTER FUNCTION configuration_cache_watched() SET extra_float_digits = 1';
    EXECUTE 'ALTER FUNCTION configuration_cache_watch(regclass, text, text, text[]) SET search_path = ' || path;
    EXECUTE 'ALTER FUNCTION configuration_cache_unwatch(regclass, text, text) SET search_path = ' || path;
    EXECUTE 'ALTER FUNCTION configuration_cache_members(regclass) SET search_path = ' || path;
END
$$;

-- To watch is to enqueue, so it takes the same kind of right. Whoever only changes a watched table needs none of them.
REVOKE ALL ON FUNCTION configuration_cache_watched() FROM PUBLIC;
REVOKE ALL ON FUNCTION configuration_cache_watch(regclass, text, text, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION configuration_cache_unwatch(regclass, text, text) FROM PUBLIC;
