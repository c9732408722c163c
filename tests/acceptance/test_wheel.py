"""What a producing service gets: the wheel alone, in a project that has names of its own."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import available

PROJECT = Path(__file__).parents[2]
ONLY_THE_WORKERS = ["asyncpg", "structlog", "tenacity", "pydantic_settings"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=PROJECT, check=True
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def service(tmp_path):
    """The project of a service that has its own worker.py and contracts/."""
    service = tmp_path / "service"
    (service / "contracts").mkdir(parents=True)
    (service / "contracts" / "__init__.py").write_text("OWNER = 'the service'\n")
    (service / "worker.py").write_text("OWNER = 'the service'\n")
    return service


@pytest.fixture
def run(installed, service):
    """Runs Python in the service, with the wheel."""

    def run(code, *, without=()):
        hidden = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in without)
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", f"{hidden}sys.path.insert(1, {str(installed)!r})\n{code}"],
            cwd=service,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_a_producer_needs_nothing_of_the_workers(run):
    outcome = run(
        "import configcache, configcache.cache, configcache.events\n"
        "print(configcache.__file__)\n"
        "print(repr(configcache.ClearConfigurationCache.for_all('WebClient', 'Web')))\n",
        without=[*ONLY_THE_WORKERS, "configcache_worker"],
    )

    assert outcome.returncode == 0, outcome.stderr
    assert "installed" in outcome.stdout
    assert "WebClient" in outcome.stdout


def test_the_base_install_depends_on_aio_pika_and_pydantic_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()

    needed = [
        line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]

    assert [line.split()[1].split(">")[0] for line in needed] == ["aio-pika", "pydantic"]


def test_a_service_with_its_own_worker_and_contracts_is_not_disturbed(run):
    outcome = run(
        "import configcache, configcache_worker, contracts, worker\nprint(contracts.OWNER, worker.OWNER)\n"
    )

    assert outcome.stdout == "the service the service\n", outcome.stderr


def test_a_verb_without_its_extra_says_so_in_one_line(run):
    outcome = run(
        "from configcache_worker.__main__ import main\nraise SystemExit(main(['worker']))\n",
        without=ONLY_THE_WORKERS,
    )

    assert outcome.returncode == 2
    assert outcome.stderr.splitlines() == [
        'configcache worker needs the extra [worker]: pip install "clear-configuration-cache[worker]"'
    ]


# Its tests


@pytest.fixture
def run_pytest(installed, service):
    """Runs pytest in the service, with the wheel's plugin found as an installed one is: exit code and output."""
    own = "from contracts import OWNER as ONE\nfrom worker import OWNER as OTHER\n\n\ndef test_names():\n    assert ONE == OTHER\n"
    (service / "test_own_names.py").write_text(own)

    def run_pytest(*arguments, **environment):
        outcome = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=service,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(service)]), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return outcome.returncode, outcome.stdout

    return run_pytest


@pytest.mark.timeout(120)
def test_a_services_tests_find_the_fixtures_also_in_parallel(run_pytest, service, servers):
    with available():
        servers.start()
    for name in ("my_service.py", "test_my_service.py"):
        shutil.copy(PROJECT / "examples" / name, service)

    # By files: only one of the two processes needs a pair of servers, as each process of this suite has one.
    code, output = run_pytest(
        "-n",
        "2",
        "--dist",
        "loadfile",
        "-W",
        "error",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        CI="true",
    )

    assert code == 0, output
    assert "4 passed" in output


def test_whoever_does_not_use_the_fixtures_imports_nothing_but_pytest(run_pytest, service):
    (service / "test_nothing.py").write_text(
        "import sys\n\n\ndef test_nothing_was_imported():\n"
        "    assert 'configcache.pytest_plugin' in sys.modules\n"
        f"    assert not {{'pydantic', 'aio_pika', 'configcache_worker', *{ONLY_THE_WORKERS}}} & set(sys.modules)\n"
    )

    code, output = run_pytest("test_nothing.py")

    assert code == 0, output
