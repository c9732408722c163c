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


@pytest.fixture
def file(tmp_path):
    (tmp_path / "configcache.toml").write_text(FILE)
    return tmp_path / "configcache.toml"


def answers(switch):
    keys = [("WebClient", "Web"), ("WebClient", "Test"), ("Mobile", "Web"), ("Mobile", "Test")]
    return [switch.is_on(*key) for key in keys]


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
    ],
    ids=["enabled", "no list", "no application", "twice"],
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
