-- Three configurations, cached for a hundred associates, four pages each.
INSERT INTO configuration_cache (application, instance, associate_id, item, xml, built_at)
SELECT application, instance, associate_id, item, '<configuration/>', now()
FROM (VALUES ('WebClient', 'Web'), ('WebClient', 'Trial'), ('MobileClient', 'Main')) configuration (application, instance),
     generate_series(1, 100) associate_id,
     unnest(ARRAY['Contact', 'Project', 'Sale', 'Diary']) item
ON CONFLICT DO NOTHING;

\echo 'before'
\ir rows.sql
