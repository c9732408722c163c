SELECT application, instance, count(item) AS "cached rows", count(*) FILTER (WHERE associate_id = 42) AS "of associate 42"
FROM (VALUES ('WebClient', 'Web'), ('WebClient', 'Trial'), ('MobileClient', 'Main')) configuration (application, instance)
LEFT JOIN configuration_cache USING (application, instance)
GROUP BY 1, 2
ORDER BY 1 DESC, 2 DESC;
