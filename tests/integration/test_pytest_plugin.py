"""The plugin where something is missing. Where nothing is, see ``tests/acceptance/test_wheel.py``."""

import pytest

USES_THE_SYSTEM = """
import asyncio

def test_it(configuration_cache):
    async def use():
        async with configuration_cache():
            pass

    asyncio.run(use())
"""


@pytest.fixture
def outcome(pytester, monkeypatch):
    """Runs pytest on a test that asks for a whole system, with these variables set: outcomes and output."""
    monkeypatch.delenv("CI", raising=False)
    for name in ("BROKER", "DATABASE"):
        monkeypatch.delenv(f"CONFIGCACHE_TEST_{name}_URL", raising=False)
    pytester.makepyfile(USES_THE_SYSTEM)

    def outcome(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        result = pytester.runpytest_inprocess("-rs", "-o", "asyncio_default_fixture_loop_scope=function")
        return result.parseoutcomes(), result.stdout.str()

    return outcome


@pytest.mark.parametrize(
    ("no_server", "words"),
    [
        (
            {"PATH": "/nowhere", "CONFIGCACHE_TEST_DATABASE_URL": "postgresql://x/y"},
            "epmd is not on PATH",
        ),
        (
            {
                "CONFIGCACHE_TEST_BROKER_URL": "amqp://127.0.0.1:1/",
                "CONFIGCACHE_TEST_DATABASE_URL": "postgresql://x/y",
            },
            "by the management API",
        ),
    ],
    ids=["no RabbitMQ here", "nobody at the URLs"],
)
def test_without_servers_a_test_is_skipped_at_a_desk_and_fails_in_ci(outcome, no_server, words):
    counts, output = outcome(**no_server)
    assert counts == {"skipped": 1}
    assert words in output

    counts, output = outcome(CI="true")
    assert counts in ({"failed": 1}, {"errors": 1})
    assert words in output
    assert "Traceback" not in output


def test_without_the_extra_the_fixture_says_what_to_install(outcome, pytester):
    pytester.makeconftest("import sys\n\nsys.modules['configcache_worker.testing'] = None\n")
    counts, output = outcome()

    assert counts == {"errors": 1}
    assert 'pip install "clear-configuration-cache[testing]"' in output
