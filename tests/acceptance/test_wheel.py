"""What a producing service gets: the wheel alone, in a project that has names of its own."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ONLY_THE_WORKERS = ["asyncpg", "structlog", "tenacity", "pydantic_settings"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=PROJECT, check=True
    )
    return next(folder.glob("*.whl"))


@pytest.fixture
def run(wheel, tmp_path):
    """Runs Python in a service that has its own worker.py and contracts/, and the wheel."""
    installed, service = tmp_path / "installed", tmp_path / "service"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    (service / "contracts").mkdir(parents=True)
    (service / "contracts" / "__init__.py").write_text("OWNER = 'the service'\n")
    (service / "worker.py").write_text("OWNER = 'the service'\n")

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
        "import configcache\n"
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
