-- A table whose changes clear the cache by themselves: external applications, and which groups of users see them.
--
-- `configcache migrate` has run in this database, and the caller may execute its functions and make triggers on these tables.

CREATE TABLE externalapplication (
    id         int         PRIMARY KEY,
    name       text        NOT NULL,
    url        text        NOT NULL,
    position   int         NOT NULL DEFAULT 0,
    settings   json        NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by bigint,
    last_used  timestamptz
);

CREATE TABLE externalapplication_group (
    externalapplication_id int NOT NULL REFERENCES externalapplication ON DELETE CASCADE,
    group_id               int NOT NULL,
    PRIMARY KEY (externalapplication_id, group_id)
);

-- Not for what only says who changed it and when, nor for what every use writes.
SELECT configuration_cache_watch(
    'externalapplication', 'WebClient', 'Web',
    ignore_columns => '{created_at, updated_at, updated_by, last_used}'
);
SELECT configuration_cache_watch('externalapplication_group', 'WebClient', 'Web');
