"""What every test shares: the real parts, the expected outputs, and a clean machine afterwards.

Nothing a test starts may outlive the session: each process inherits a mark of the run, and
what still carries it at the end is named, killed, and fails the run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.parts import containers, real

RUN_MARK = "ENOVA_TEST_RUN"


# --- real parts ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def vllm_binary() -> Path:
    return real.vllm_binary()


@pytest.fixture(scope="session")
def prometheus_binary() -> Path:
    return real.prometheus_binary()


@pytest.fixture(scope="session")
def promtool_binary() -> Path:
    return real.promtool_binary()


@pytest.fixture(scope="session")
def envoy_binary() -> Path:
    return real.envoy_binary()


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    return real.tiny_model()


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[containers.DockerEngine]:
    """A real engine; this process and what it starts find Compose as a plugin of the client."""
    engine = containers.docker_engine()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine.environment.items():
            patch.setenv(name, value)
        yield engine


@pytest.fixture(scope="session")
def docker_image(docker_engine: containers.DockerEngine) -> Callable[[str], str]:
    """`docker_image("vllm")`: the reference of an image that is in the engine."""
    return partial(containers.docker_image, docker_engine)


@pytest.fixture
def docker_project(docker_engine: containers.DockerEngine) -> Iterator[str]:
    """A name for a compose project of this test alone; whatever is left of it is removed."""
    project = f"enova-test-{uuid.uuid4().hex[:8]}"
    yield project
    docker_engine.sweep(project)


@pytest.fixture
def parts_on_path(monkeypatch: pytest.MonkeyPatch) -> Path:
    """`prometheus`, `promtool` and `vllm` are found on PATH, as far as they are here."""
    monkeypatch.setenv("PATH", f"{real.PARTS_BIN}{os.pathsep}{os.environ['PATH']}")
    return real.PARTS_BIN


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("vllm"):
        real.vllm_binary()


def pytest_report_header() -> list[str]:
    return real.describe()


# --- expected outputs ------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write the expected outputs of golden tests anew instead of comparing with them",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`golden(path, actual)`: `actual` is what the file says, or becomes it (`make golden`)."""
    rewrite = request.config.getoption("--rewrite-golden")

    def check(path: Path, actual: str) -> None:
        if rewrite:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(actual, encoding="utf-8")
            return
        if not path.is_file():
            pytest.fail(f"{path} does not exist; `make golden` writes it", pytrace=False)
        assert actual == path.read_text(encoding="utf-8"), f"differs from {path}"

    return check


# --- a clean machine -------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Mark the run, and keep its state out of the user's own folders."""
    os.environ[RUN_MARK] = uuid.uuid4().hex
    state = tempfile.mkdtemp(prefix="enova-test-state-")
    os.environ["XDG_STATE_HOME"] = state
    os.environ.pop("ENOVA_STATE_DIR", None)
    config.add_cleanup(lambda: shutil.rmtree(state, ignore_errors=True))


def survivors() -> list[psutil.Process]:
    """Processes of this run, other than pytest itself, that are alive."""
    mark = os.environ[RUN_MARK]
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(RUN_MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
            continue  # ended meanwhile, or another user's: not one of ours
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    _, alive = psutil.wait_procs(survivors(), timeout=5)
    lines = []
    for process in alive:
        try:
            lines.append(f"  {process.pid}: {' '.join(process.cmdline())[:150]}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    if lines:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.stash[LEFT_BEHIND] = lines


LEFT_BEHIND = pytest.StashKey[list[str]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash.get(LEFT_BEHIND, [])
    if lines:
        terminalreporter.section("processes left behind (killed now; the run failed)", red=True)
        for line in lines:
            terminalreporter.write_line(line)
