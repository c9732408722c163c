-- Nobody tells when the rows are gone: producers don't wait for the worker. So look until they are.
DO $$
BEGIN
    FOR attempt IN 1..300 LOOP
        PERFORM FROM configuration_cache
        WHERE (application, instance) = ('MobileClient', 'Main')
           OR (application, instance, associate_id) = ('WebClient', 'Web', 42);
        IF NOT FOUND THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.1);
    END LOOP;
    RAISE 'the rows are still there after 30 s: see what the worker says';
END
$$;

\echo 'after'
\ir rows.sql
