"""Where a setting's value comes from, and what is said when it is wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from configcache_worker.settings import (
    SECTIONS,
    BrokerSettings,
    CacheColumns,
    DatabaseSettings,
    Settings,
    SettingsError,
    every_setting,
    load,
    masked,
    read,
)

URLS = {
    "CONFIGCACHE_BROKER__URL": "amqp://user:hidden@rabbit/vhost",
    "CONFIGCACHE_DATABASE__URL": "postgresql://user:hidden@pg/app",
}


@pytest.fixture
def directory(tmp_path):
    return tmp_path


def problems(sections=SECTIONS, **arguments) -> list[str]:
    with pytest.raises(SettingsError) as error:
        load(sections, **arguments)
    return list(error.value.problems)


def test_the_two_urls_are_enough(directory):
    settings = load(SECTIONS, environ=URLS, directory=directory)

    assert settings.broker.url == "amqp://user:hidden@rabbit/vhost"
    assert settings.database.url == "postgresql://user:hidden@pg/app"
    assert settings.worker.prefetch == 5_000
    assert settings.cache.columns == CacheColumns(
        application="application", instance="instance", associate="associate_id", item="item"
    )


def test_environment_wins_over_file_wins_over_default(directory):
    (directory / "configcache.toml").write_text("[worker]\nprefetch = 2000\nbatch = 200\n")

    settings = load({"worker"}, environ={"CONFIGCACHE_WORKER__BATCH": "300"}, directory=directory)

    assert settings.worker.batch == 300
    assert settings.worker.prefetch == 2_000
    assert settings.worker.chunk_rows == 5_000


def test_columns_mix_file_and_environment(directory):
    (directory / "configcache.toml").write_text(
        '[cache]\nschema = "app"\n[cache.columns]\napplication = "program"\nitem = "page"\n'
    )

    settings = load({"cache"}, environ={"CONFIGCACHE_CACHE__COLUMNS__ITEM": ""}, directory=directory)

    assert settings.cache.schema_ == "app"
    assert settings.cache.columns.application == "program"
    assert settings.cache.columns.item == ""


@pytest.mark.parametrize("how", ["option", "variable"])
def test_another_file_can_be_named(directory, how):
    (directory / "configcache.toml").write_text("[telemetry]\nport = 1\n")
    (directory / "other.toml").write_text("[telemetry]\nport = 2\n")
    named = {"config": "other.toml"} if how == "option" else {"environ": {"CONFIGCACHE_CONFIG": "other.toml"}}

    settings = load({"telemetry"}, **{"environ": {}, "directory": directory, **named})

    assert settings.telemetry.port == 2


def test_a_secret_may_come_from_a_file_without_its_line_break(directory):
    (directory / "url").write_text("amqp://user:hidden@rabbit/\n")

    settings = load({"broker"}, environ={"CONFIGCACHE_BROKER__URL_FILE": "url"}, directory=directory)

    assert settings.broker.url == "amqp://user:hidden@rabbit/"


def test_only_the_sections_in_use_are_validated(directory):
    environ = {"CONFIGCACHE_BROKER__URL": "amqp://h", "CONFIGCACHE_WORKER__PREFETCH": "many"}

    settings = load({"broker"}, environ=environ, directory=directory)

    assert settings.broker.url == "amqp://h"
    assert settings.worker.prefetch == 5_000
    with pytest.raises(AttributeError):
        _ = settings.database.url


def test_settings_built_directly_read_neither_environment_nor_file(directory, monkeypatch):
    (directory / "configcache.toml").write_text("[worker]\nprefetch = 1\n")
    monkeypatch.chdir(directory)
    monkeypatch.setenv("CONFIGCACHE_WORKER__BATCH", "1")
    monkeypatch.setenv("worker", '{"chunk_rows": 100}')

    settings = Settings(
        broker=BrokerSettings(url="amqp://h"), database=DatabaseSettings(url="postgresql://h/d")
    )

    assert (settings.worker.prefetch, settings.worker.batch, settings.worker.chunk_rows) == (
        5_000,
        1_000,
        5_000,
    )


def test_settings_cannot_be_changed(directory):
    settings = load(SECTIONS, environ=URLS, directory=directory)

    with pytest.raises(ValidationError):
        settings.worker.prefetch = 1
    with pytest.raises(ValidationError):
        settings.worker = settings.worker


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("BROKER__URL", "http://h", "begins with amqp:// or amqps://"),
        ("BROKER__URL", "amqp://", "must name a host"),
        ("BROKER__URL", "amqp://one,,two/v", "must name a host, or several separated by commas"),
        ("BROKER__URL", "amqp://h:port", "a port that is a number"),
        ("BROKER__URL", "amqp://one:1,two:port", "a port that is a number"),
        ("BROKER__URL", "amqp://u:pass word@h", "white space"),
        ("BROKER__DECLARE", "maybe", "must be true or false, not maybe"),
        ("BROKER__HEARTBEAT_S", "0", "a whole number from 1 to 60, not 0"),
        ("BROKER__HEARTBEAT_S", "61", "a whole number from 1 to 60, not 61"),
        ("BROKER__CONNECT_TIMEOUT_S", "inf", "a number above 0 and at most 86400, not inf"),
        ("BROKER__URL", "amqp://h/?heartbeat=abc", "must not set heartbeat: set broker.heartbeat_s"),
        ("BROKER__URL", "amqp://h/?hartbeat=3", "must not set hartbeat: set broker.heartbeat_s"),
        ("BROKER__URL", "amqps://h/?cafil=x", "did you mean cafile?"),
        ("BROKER__URL", "amqp://h/?heartbeat", "name=value"),
        ("DATABASE__URL", "mysql://h", "begins with postgresql:// or postgres://"),
        ("DATABASE__URL", "postgresql://h:abc/d", "a port that is a number from 1 to 65535"),
        ("DATABASE__URL", "postgresql://h:1,i:65536/d", "a port that is a number from 1 to 65535"),
        ("DATABASE__URL", "postgresql://h/d?port=abc", "a port that is a number from 1 to 65535"),
        ("DATABASE__URL", "postgresql://h/d?sslmode=reqire", "its sslmode; did you mean require?"),
        ("DATABASE__URL", "postgresql://h/d?sslmode", "name=value"),
        ("DATABASE__URL", "postgresql://h/d?target_session_attrs=x", "one of any, primary, standby,"),
        ("DATABASE__URL", "postgresql://::1/d", "a port that is a number"),
        ("DATABASE__LOCK_TIMEOUT_S", "0", "a number above 0"),
        ("CACHE__TABLE", "", "a text that is not empty, not ''"),
        ("CACHE__SCHEMA", "é" * 32, "at most 63 bytes"),
        ("WORKER__PREFETCH", "65536", "a whole number from 1 to 65535, not 65536"),
        ("WORKER__PREFETCH", "1e3", "a whole number from 1 to 65535, not 1e3"),
        ("WORKER__BATCH", "5001", "at most worker.prefetch, which is 5000, not 5001"),
        ("WORKER__CHUNK_ROWS", "99", "a whole number of at least 100, not 99"),
        ("WORKER__LONGEST_RETRY_S", "0.01", "at least worker.first_retry_s, which is 0.05, not 0.01"),
        ("TELEMETRY__LOG_FORMAT", "xml", "one of auto, console, json, not xml"),
        ("TELEMETRY__LOG_LEVEL", "loud", "one of debug, info, warning, error, not loud"),
        ("TELEMETRY__PORT", "-1", "a whole number from 0 to 65535"),
    ],
)
def test_a_wrong_value_is_one_line_naming_setting_and_origin(directory, variable, value, words):
    name = variable.lower().replace("__", ".")

    (line,) = problems(environ={**URLS, f"CONFIGCACHE_{variable}": value}, directory=directory)

    assert line.startswith(f"{name} (environment CONFIGCACHE_{variable}) must ")
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "url",
    [
        "amqp://[::1]:5672/v?name=me&timeout=5",
        "amqps://u:p%40@h/v?cafile=/ca&certfile=/c&keyfile=/k&no_verify_ssl=1&auth=EXTERNAL",
        "amqp://u:p,q%40@h:1,[::1]:2,i/v?name=a,b",
        "postgresql:///d",
        "postgres://u:p%40@h:1,[::1]:2,i/d?sslmode=verify-full&application_name=x",
        "postgresql://%2Frun%2Fpostgresql/d?target_session_attrs=read-write",
        "postgresql://h:5432/d?user=me@realm&port=5433",
    ],
)
def test_urls_that_the_drivers_take_are_taken(directory, url):
    section = "broker" if url.startswith("amqp") else "database"

    settings = load({section}, environ={f"CONFIGCACHE_{section.upper()}__URL": url}, directory=directory)

    assert getattr(settings, section).url == url


def test_a_wrong_value_in_the_file_names_the_file(directory):
    (directory / "configcache.toml").write_text('[worker]\nprefetch = ["5"]\n')

    (line,) = problems(environ=URLS, directory=directory)

    assert line == "worker.prefetch (file configcache.toml) must be a whole number from 1 to 65535, not ['5']"


def test_columns_must_differ(directory):
    environ = {**URLS, "CONFIGCACHE_CACHE__COLUMNS__ITEM": "instance"}

    (line,) = problems(environ=environ, directory=directory)

    assert line == "cache.columns must be different columns: application, instance, associate_id, instance"


def test_a_missing_setting_is_told_with_both_ways_to_give_it(directory):
    assert problems({"broker"}, environ={}, directory=directory) == [
        "broker.url is missing: set CONFIGCACHE_BROKER__URL, or url under [broker] in configcache.toml"
    ]


def test_every_problem_has_its_line(directory):
    environ = {**URLS, "CONFIGCACHE_WORKER__PREFETCH": "0", "CONFIGCACHE_TELEMETRY__PORT": "x"}

    assert [line.split()[0] for line in problems(environ=environ, directory=directory)] == [
        "worker.prefetch",
        "telemetry.port",
    ]


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CONFIGCACHE_BROKER__ULR", "CONFIGCACHE_BROKER__URL"),
        ("CONFIGCACHE_BROKRE__URL", "CONFIGCACHE_BROKER__URL"),
        ("CONFIGCACHE_BROKER_URL", "CONFIGCACHE_BROKER__URL"),
        ("CONFIGCACHE_BROKER_URL_FILE", "CONFIGCACHE_BROKER__URL_FILE"),
        ("configcache_broker__url", "CONFIGCACHE_BROKER__URL"),
        ("CONFIGCACHE_CACHE__COLUMNS_ITEM", "CONFIGCACHE_CACHE__COLUMNS__ITEM"),
        ("CONFIGCACHE_TELEMETRY_LOG_FORMAT", "CONFIGCACHE_TELEMETRY__LOG_FORMAT"),
        ("CONFIGCACHE_WORKER__LOG_LEVEL", "CONFIGCACHE_TELEMETRY__LOG_LEVEL"),
    ],
)
def test_a_misnamed_variable_is_an_error_with_the_right_name(directory, variable, meant):
    (line,) = problems({"worker"}, environ={variable: "x"}, directory=directory)

    assert variable in line
    assert meant in line.removeprefix(f"the environment variable {variable} ")


@pytest.mark.parametrize(
    "variable",
    [
        "CONFIGCACHE_TEST_BROKER_URL",
        "CONFIGCACHE_TEST_DATABASE_URL",
        "CONFIGCACHE_BROKER_PORT",
        "CONFIGCACHE_DATABASE_PORT",
        "CONFIGCACHE_WORKER_SERVICE_HOST",
        "CONFIGCACHE",
        "OTHER__BROKER__URL",
    ],
)
def test_other_variables_are_ignored(directory, variable):
    settings = load({"worker"}, environ={variable: "x"}, directory=directory)

    assert settings.worker.prefetch == 5_000


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[brokr]\nurl = 1", "configcache.toml: brokr is no setting; did you mean broker?"),
        ("[broker]\nulr = 1", "configcache.toml: broker.ulr is no setting; did you mean broker.url?"),
        (
            "[worker]\nlog_level = 1",
            "configcache.toml: worker.log_level is no setting; did you mean telemetry.log_level?",
        ),
        (
            "[cache.columns]\nitems = 1",
            "configcache.toml: cache.columns.items is no setting; did you mean cache.columns.item?",
        ),
        ("[worker]\nxyzzy = 1", "configcache.toml: worker.xyzzy is no setting"),
        ("broker = 1", "configcache.toml: broker must be a table: [broker]"),
    ],
)
def test_an_unknown_key_in_the_file_is_an_error_with_a_suggestion(directory, text, line):
    (directory / "configcache.toml").write_text(text)

    assert problems({"worker"}, environ={}, directory=directory) == [line]


def test_a_named_file_that_is_not_there_is_an_error(directory):
    (line,) = problems({"worker"}, environ={"CONFIGCACHE_CONFIG": "none.toml"}, directory=directory)

    assert "none.toml can't be read: No such file or directory" in line


@pytest.mark.parametrize("content", [b"[worker\n", b"\xff"])
def test_a_file_that_is_not_toml_is_an_error(directory, content):
    (directory / "configcache.toml").write_bytes(content)

    (line,) = problems({"worker"}, environ={}, directory=directory)

    assert "configcache.toml is not TOML" in line


def test_a_setting_given_twice_is_an_error(directory):
    environ = {"CONFIGCACHE_BROKER__URL": "amqp://h", "CONFIGCACHE_BROKER__URL_FILE": "url"}

    (line,) = problems({"broker"}, environ=environ, directory=directory)

    assert line.startswith("broker.url is given twice")


def test_an_unreadable_secret_file_names_the_variable(directory):
    (line,) = problems({"broker"}, environ={"CONFIGCACHE_BROKER__URL_FILE": "none"}, directory=directory)

    assert "CONFIGCACHE_BROKER__URL_FILE can't be read: no such file or directory: " in line


@pytest.mark.parametrize(
    ("section", "url"),
    [
        ("broker", "http://u:hidden@h"),
        ("broker", "hidden"),
        ("broker", "amqp://u:hid den@h"),
        ("broker", "amqp://u:hidden@:x"),
        ("broker", "amqp://u:hid/den@h"),
        ("broker", "amqp://u:1?hid=den@h"),
        ("broker", "amqp://u:1#hid@h"),
        ("broker", "amqp://u:hid,den@one,two:x"),
        ("database", "postgresql://u:hid@den@h/d"),
        ("database", "postgresql://u:hid/den@h/d"),
        ("database", "postgresql://u:1/hid@h/d"),
        ("database", "postgresql://u:hid?den@h/d"),
        ("database", "postgresql://u:hid[den@h/d"),
    ],
)
def test_no_message_contains_a_secret(directory, section, url):
    environ = {f"CONFIGCACHE_{section.upper()}__URL": url}

    (line,) = problems({section}, environ=environ, directory=directory)
    sources = read(environ=environ, directory=directory)

    assert "hid" not in line
    assert not any("hid" in row.value for row in sources.effective())


def test_printing_settings_shows_no_secret(directory):
    assert "hidden" not in repr(load(SECTIONS, environ=URLS, directory=directory))
    assert "hidden" not in repr(read(environ=URLS, directory=directory))


def test_effective_values_come_with_their_origin(directory):
    (directory / "configcache.toml").write_text('[cache]\ntable = "xml"\n[broker]\ndeclare = false\n')
    (directory / "secret").write_text("amqp://user:hidden@rabbit/vhost")
    environ = {
        "CONFIGCACHE_BROKER__URL_FILE": "secret",
        "CONFIGCACHE_CACHE__COLUMNS__ITEM": "",
        "CONFIGCACHE_WORKER__PREFETCH": "0",
    }

    rows = {
        row.setting.name: (row.value, row.origin)
        for row in read(environ=environ, directory=directory).effective()
    }

    assert rows["broker.url"] == (
        "amqp://user:***@rabbit/vhost",
        "file named by CONFIGCACHE_BROKER__URL_FILE",
    )
    assert rows["broker.declare"] == ("false", "file configcache.toml")
    assert rows["broker.connect_timeout_s"] == ("10", "default")
    assert rows["cache.table"] == ("xml", "file configcache.toml")
    assert rows["cache.columns.item"] == ("''", "environment CONFIGCACHE_CACHE__COLUMNS__ITEM")
    assert rows["database.url"] == ("(not set)", "default")
    assert rows["worker.prefetch"] == ("0", "environment CONFIGCACHE_WORKER__PREFETCH")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://user:hidden@host/v", "amqp://user:***@host/v"),
        ("amqp://user:hid/d@en@host/v", "amqp://user:***@host/v"),
        ("amqp://user:hid,den@one:1,two:2/v", "amqp://user:***@one:1,two:2/v"),
        ("amqp://user@host/v", "amqp://user@host/v"),
        ("amqp://host:5672/v", "amqp://host:5672/v"),
        ("postgresql://h/d?user=u&password=hidden&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("lost amqp://u:hidden@h and amqp://u:hidden@i", "lost amqp://u:***@h and amqp://u:***@i"),
    ],
)
def test_passwords_in_urls_are_masked(text, shown):
    assert masked(text) == shown


def test_every_setting_is_described():
    settings = list(every_setting())

    assert len({setting.variable for setting in settings}) == len(settings)
    assert [setting.name for setting in settings if not setting.description.endswith(".")] == []
    assert [setting.name for setting in settings if setting.is_required] == ["broker.url", "database.url"]


def test_every_default_is_what_the_table_says(directory):
    rows = read(environ=URLS, directory=directory).effective()

    assert [row.setting.name for row in rows if row.value != row.setting.default] == [
        "broker.url",
        "database.url",
    ]


# The gateway


def gateway_problems(**values) -> list[str]:
    environ = {f"CONFIGCACHE_GATEWAY__{name.upper()}": value for name, value in values.items()}
    return problems({"gateway"}, environ=environ)


def test_a_gateway_needs_no_setting():
    gateway = load({"gateway"}, environ={}).gateway

    assert (gateway.host, gateway.port, gateway.tls_certificate) == ("127.0.0.1", 8080, "")


@pytest.mark.parametrize("given", [{"tls_certificate": "cert.pem"}, {"tls_key": "key.pem"}])
def test_a_certificate_and_its_key_come_together(given):
    assert gateway_problems(**given) == ["gateway must have both tls_certificate and tls_key, or neither"]


@pytest.mark.parametrize("path", ["crm", "/crm/", "/"])
def test_the_root_path_is_one_that_can_stand_before_a_path(path):
    (problem,) = gateway_problems(root_path=path)

    assert "must begin with a slash and not end with one" in problem


@pytest.mark.parametrize("proxies", ["", "10.0.0.0/8, 127.0.0.1", "::1", "*"])
def test_proxies_are_addresses_or_networks(proxies):
    assert load({"gateway"}, environ={"CONFIGCACHE_GATEWAY__FORWARDED_ALLOW_IPS": proxies})


@pytest.mark.parametrize("proxies", ["proxy.example", "10.0.0.1/8", "10.0.0.1, *"])
def test_proxies_that_would_match_nobody_are_refused(proxies):
    (problem,) = gateway_problems(forwarded_allow_ips=proxies)

    assert "must be IP addresses or networks" in problem


JWT = {"jwt__issuer": "https://id.example", "jwt__audience": "configcache", "jwt__jwks": "jwks.json"}


def accepted(**values) -> list[str]:
    environ = {f"CONFIGCACHE_GATEWAY__{name.upper()}": value for name, value in values.items()}
    gateway = load({"gateway"}, environ=environ).gateway
    return [scheme for scheme in ("bearer", "basic", "ticket", "session") if gateway.accepts(scheme)]


def test_who_may_call_follows_from_the_installation():
    assert accepted() == ["basic", "ticket", "session"]
    assert accepted(installation="Online", **JWT) == ["bearer", "ticket", "session"]


def test_each_scheme_has_a_switch():
    assert accepted(basic="off", bearer="on", **JWT) == ["bearer", "ticket", "session"]
    assert accepted(installation="online", bearer="false", session="OFF") == ["ticket"]


def test_a_switch_in_the_file_may_be_a_boolean(directory):
    (directory / "configcache.toml").write_text("[gateway]\nsession = false\nticket = true\n")

    gateway = load({"gateway"}, environ={}, directory=directory).gateway

    assert (gateway.session, gateway.ticket) == ("off", "on")


def test_passwords_are_not_accepted_online():
    (problem,) = gateway_problems(installation="online", basic="on", **JWT)

    assert problem == "gateway must not have basic on while installation is online: passwords are for onsite"


def test_a_gateway_that_would_refuse_everybody_does_not_start():
    assert gateway_problems(basic="off", ticket="off", session="off") == [
        "gateway must accept something: bearer, basic, ticket and session are all off"
    ]


@pytest.mark.parametrize("given", [{"installation": "online"}, {"bearer": "on"}])
@pytest.mark.parametrize("missing", ["issuer", "audience", "jwks"])
def test_tokens_cannot_be_judged_without_all_that_it_takes(given, missing):
    jwt = {name: value for name, value in JWT.items() if not name.endswith(missing)}

    (problem,) = gateway_problems(**given, **jwt)

    assert problem.startswith(f"gateway must have jwt.{missing}, or bearer off")


@pytest.mark.parametrize(
    "place", ["jwks.json", "/run/secrets/jwks", "https://id.example/jwks", "http://127.0.0.1:8080/jwks"]
)
def test_keys_are_in_a_file_or_come_by_a_way_that_nobody_can_change(place):
    assert accepted(bearer="on", **JWT | {"jwt__jwks": place})


@pytest.mark.parametrize(
    "place", ["http://id.example/jwks", "ftp://id.example/jwks", "https://", "http://localhost.example/"]
)
def test_keys_that_somebody_on_the_way_could_change_are_refused(place):
    (problem,) = gateway_problems(**JWT | {"jwt__jwks": place})

    assert "must be a file, or a URL that begins with https://" in problem


@pytest.mark.parametrize(
    ("values", "needs"),
    [
        ({}, True),
        ({"installation": "online", "ticket": "off", "session": "off", **JWT}, False),
        ({"installation": "online", "ticket": "off", **JWT}, True),
    ],
    ids=["onsite", "tokens alone", "tokens and sessions"],
)
def test_a_database_is_needed_unless_tokens_alone_are_accepted(values, needs):
    environ = {f"CONFIGCACHE_GATEWAY__{name.upper()}": value for name, value in values.items()}

    assert load({"gateway"}, environ=environ).gateway.needs_database is needs
