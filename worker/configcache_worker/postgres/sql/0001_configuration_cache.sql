-- The cached configuration XML: one row per application, instance, associate and item.
--
-- Names compare exactly, byte by byte (COLLATE "C"), and the primary key leads with application and instance, so that
-- each scope of a clear is one range of the index. Three names of 254, 254 and 128 code points are the most that always
-- fit into an entry of a B-tree index (2,704 bytes).
CREATE TABLE configuration_cache (
    application  text COLLATE "C" NOT NULL,
    instance     text COLLATE "C" NOT NULL,
    associate_id bigint           NOT NULL,
    item         text COLLATE "C" NOT NULL CHECK (char_length(item) <= 128),
    xml          text,
    built_at     timestamptz,
    lease        uuid,
    leased_until timestamptz,
    PRIMARY KEY (application, instance, associate_id, item)
);

COMMENT ON TABLE configuration_cache IS 'Built configuration XML. Cleared by the command ClearConfigurationCache.';
COMMENT ON COLUMN configuration_cache.xml IS 'Null while it is being built: the builder holds the lease.';
