-- Who may call the HTTP gateway. docs/gateway.md tells it at length.
--
-- The gateway reads the view and nothing else. Over your own tables, replace it:
--
--     CREATE OR REPLACE VIEW gateway_credential (kind, name, secret_hash, associate_id, may_clear_all, expires_at) AS
--     SELECT ... FROM your tables
--
-- with the same columns, of the same types. Until then it shows the table below.
--
--   kind           password, ticket, app-token or session
--   name           of a password: the user's. Of all others: for people, such as the name of a job
--   secret_hash    of a password: argon2, as `configcache gateway --hash-password` prints it. Of all others, which are
--                  random: gateway_secret_hash(secret). The secret of a session is the id in its cookie, a space, and
--                  its XSRF token
--   associate_id   who calls; of an app-token, null
--   may_clear_all  whether for every associate
--   expires_at     null: never
--
-- No COLLATE: a view can't be replaced by one whose columns have another collation.
CREATE TABLE gateway_stored_credential (
    kind          text        NOT NULL CHECK (kind IN ('password', 'ticket', 'app-token', 'session')),
    name          text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 254),
    secret_hash   text        NOT NULL,
    associate_id  bigint      CHECK (associate_id >= 1),
    may_clear_all boolean     NOT NULL DEFAULT false,
    expires_at    timestamptz,
    PRIMARY KEY (kind, secret_hash),
    CONSTRAINT gateway_stored_credential_secret_hash CHECK (
        CASE kind WHEN 'password' THEN secret_hash ^@ '$argon2' ELSE secret_hash ~ '^[0-9a-f]{64}$' END
    ),
    CONSTRAINT gateway_stored_credential_associate CHECK ((kind = 'app-token') = (associate_id IS NULL))
);

-- A user has one password. Of sessions and tickets the name is only a label.
CREATE UNIQUE INDEX gateway_stored_credential_password ON gateway_stored_credential (name) WHERE kind = 'password';

COMMENT ON TABLE gateway_stored_credential IS 'Who may call the HTTP gateway, where no tables of your own say so.';

-- Called immutable, so that an index can be made of it: the encoding that it depends on is the database's for life.
CREATE FUNCTION gateway_secret_hash(secret text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT encode(sha256(convert_to(secret, 'UTF8')), 'hex') $$;

COMMENT ON FUNCTION gateway_secret_hash(text) IS 'Of a random secret: a ticket, a session with its XSRF token, an app token.';

CREATE VIEW gateway_credential AS
SELECT kind, name, secret_hash, associate_id, may_clear_all, expires_at FROM gateway_stored_credential;

COMMENT ON VIEW gateway_credential IS 'All that the HTTP gateway reads. Replace it by one over your own tables.';
COMMENT ON COLUMN gateway_credential.secret_hash IS
    'Of a password: argon2. Of all others: gateway_secret_hash(secret).';
