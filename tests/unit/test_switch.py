"""Whether what is built is cached: the most specific answer counts, and files and variables are read as the program reads them."""

import pytest

from configcache.switch import CacheSwitch, read_overrides
from configcache_worker.settings import SettingsError, load, read

FILE = """
[broker]
url = "amqp://somewhere/"

[cache]
enabled = false

[[cache.overrides]]
application = "WebClient"
enabled = true

[[cache.overrides]]
application = "WebClient"
instance = "Test"
enabled = false
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "configcache.toml").write_text(FILE)
    return tmp_path / "configcache.toml"


def answers(switch):
    keys = [("WebClient", "Web"), ("WebClient", "Test"), ("Mobile", "Web"), ("Mobile", "Test")]
    return [switch.is_on(*key) for key in keys]


def as_the_program(environ):
    settings = load(["cache"], environ=environ).cache
    return CacheSwitch(enabled=settings.enabled, overrides=settings.overrides)


def test_without_settings_everything_is_cached():
    assert answers(CacheSwitch()) == [True] * 4
    assert answers(CacheSwitch.from_settings(environ={})) == [True] * 4


def test_the_most_specific_override_counts(file):
    assert answers(CacheSwitch.from_settings(file, environ={})) == [True, False, False, False]


def test_a_reader_and_the_program_read_the_same(file):
    settings = load(["cache"], config=file, environ={}).cache

    assert CacheSwitch.from_settings(file, environ={}) == CacheSwitch(
        enabled=settings.enabled, overrides=settings.overrides
    )


def test_variables_go_over_the_file_for_both(file):
    environ = {
        "CONFIGCACHE_CACHE__ENABLED": "true",
        "CONFIGCACHE_CACHE__OVERRIDES": '[{"application": "Mobile", "enabled": false}]',
    }

    switch = CacheSwitch.from_settings(file, environ=environ)
    settings = load(["cache"], config=file, environ=environ).cache

    assert answers(switch) == [True, True, False, False]
    assert switch == CacheSwitch(enabled=settings.enabled, overrides=settings.overrides)


def test_the_file_is_found_as_the_program_finds_it(file):
    assert (
        answers(CacheSwitch.from_settings(environ={}))
        == answers(as_the_program({}))
        == [True, False, False, False]
    )

    named = {"CONFIGCACHE_CONFIG": str(file.rename(file.with_name("other.toml")))}
    assert answers(CacheSwitch.from_settings(environ={})) == answers(as_the_program({})) == [True] * 4
    assert CacheSwitch.from_settings(environ=named) == as_the_program(named)
    assert not CacheSwitch.from_settings(environ=named).enabled
    with pytest.raises(FileNotFoundError):
        CacheSwitch.from_settings(environ={"CONFIGCACHE_CONFIG": "nowhere.toml"})


def test_variables_may_name_files_for_both(tmp_path):
    (tmp_path / "enabled").write_text("false\n")
    (tmp_path / "overrides").write_text('[{"application": "Mobile", "enabled": true}]\n')
    environ = {
        "CONFIGCACHE_CACHE__ENABLED_FILE": str(tmp_path / "enabled"),
        "CONFIGCACHE_CACHE__OVERRIDES_FILE": str(tmp_path / "overrides"),
    }

    switch = CacheSwitch.from_settings(environ=environ)

    assert answers(switch) == [False, False, True, True]
    assert switch == as_the_program(environ)


def test_a_file_whose_section_is_no_table_is_named_by_both(file):
    file.write_text("cache = 1")

    with pytest.raises(ValueError, match=r"configcache.toml: cache must be a table"):
        CacheSwitch.from_settings(environ={})
    with pytest.raises(SettingsError, match=r"configcache.toml: cache must be a table"):
        load(["cache"], environ={})


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"CONFIGCACHE_CACHE__ENABLED": "perhaps"}, "cache.enabled"),
        ({"CONFIGCACHE_CACHE__OVERRIDES": "WebClient"}, r"cache.overrides.*must be a list such as \[{"),
        (
            {"CONFIGCACHE_CACHE__OVERRIDES": '[{"instance": "Web", "enabled": false}]'},
            "must be a list such as",
        ),
        (
            {
                "CONFIGCACHE_CACHE__OVERRIDES": '[{"application": "A", "enabled": true}, {"application": "A", "enabled": false}]'
            },
            "must not name the same twice: application 'A'",
        ),
        (
            {"CONFIGCACHE_CACHE__ENABLED": "true", "CONFIGCACHE_CACHE__ENABLED_FILE": "enabled"},
            "cache.enabled is given twice",
        ),
    ],
    ids=["enabled", "no list", "no application", "twice", "by two"],
)
def test_what_is_wrong_is_named_by_both(environ, told):
    with pytest.raises(ValueError, match=told):
        CacheSwitch.from_settings(environ=environ)
    with pytest.raises(SettingsError, match=told):
        load(["cache"], environ=environ)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        CacheSwitch.from_settings(tmp_path / "configcache.toml", environ={})


def test_overrides_are_shown_as_a_variable_takes_them(file):
    (shown,) = [
        line.value
        for line in read(config=file, environ={}).effective()
        if line.setting.name == "cache.overrides"
    ]

    assert read_overrides(shown) == load(["cache"], config=file, environ={}).cache.overrides
