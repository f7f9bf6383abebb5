"""A stack for the scenarios: made when first asked for, cleaned up, and kept to look at on failure.

The stack of a module is shared by its tests, because starting one takes a while; each test asks
for `settled`, which brings it back to its spec first.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.parts import real
from tests.scenario.containers import ContainerStack
from tests.scenario.kinds import FEW, TWENTY, Kind, real_containers, real_engines
from tests.scenario.world import OK, Stack, free_ports

ARTIFACTS = real.ROOT / "tests" / "artifacts"
STACKS = pytest.StashKey[list[Stack]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the stacks of a failed test, before anything cleans them up."""
    report = yield
    if report.failed and report.when in ("setup", "call"):
        name = re.sub(r"[^\w.-]+", "-", item.name)
        for stack in item.session.stash.get(STACKS, []):
            where = ARTIFACTS / name / stack.name
            stack.keep(where)
            report.sections.append(("kept", str(where)))
    return report


@pytest.fixture(scope="session")
def stacks(request: pytest.FixtureRequest) -> list[Stack]:
    """The stacks that exist now."""
    return request.session.stash.setdefault(STACKS, [])


@pytest.fixture(scope="module")
def make_stack(
    request: pytest.FixtureRequest, stacks: list[Stack]
) -> Iterator[Callable[[Kind], Stack]]:
    """Make a stack's folder and spec; whatever it started is ended with the module."""
    made: list[Stack] = []

    def make(kind: Kind) -> Stack:
        # A short path: Envoy's socket lies below it.
        folder = Path(tempfile.mkdtemp(prefix="enova-s-"))
        real.envoy_binary()
        spec = kind.spec(free_ports())
        if kind.target == "compose":
            for image in kind.images:
                request.getfixturevalue("docker_image")(image)
            # Others may run the same tests on this engine.
            spec["name"] += f"-{uuid.uuid4().hex[:6]}"
            stack: Stack = ContainerStack(
                folder, spec, docker=request.getfixturevalue("docker_engine")
            )
        else:
            if kind.monitors:
                real.prometheus_binary()
            stack = Stack(folder, spec, real.PARTS_BIN if kind.monitors else None)
        made.append(stack)
        stacks.append(stack)
        return stack

    yield make
    for stack in made:
        stack.clean()
        stacks.remove(stack)
        shutil.rmtree(stack.folder)


@pytest.fixture(
    scope="module",
    params=[
        "twenty emulated",
        pytest.param("real vLLM", marks=pytest.mark.vllm),
        pytest.param("real vLLM in containers", marks=pytest.mark.vllm),
    ],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which stack the obligations are shown on."""
    if request.param == "real vLLM":
        return real_engines(real.tiny_model(), real.vllm_binary())
    if request.param == "real vLLM in containers":
        return real_containers(real.tiny_model())
    return TWENTY


@pytest.fixture(scope="module")
def stack(kind: Kind, make_stack: Callable[[Kind], Stack]) -> Stack:
    """The stack of this module; nothing of it runs yet."""
    return make_stack(kind)


@pytest.fixture
def settled(stack: Stack) -> Stack:
    """The stack, running as its spec says."""
    return settle(stack)


@pytest.fixture(scope="module")
def few(make_stack: Callable[[Kind], Stack]) -> Stack:
    """Two emulated replicas under a real Prometheus; nothing of it runs yet."""
    return make_stack(FEW)


def settle(stack: Stack) -> Stack:
    """Apply the spec of a stack where it does not hold."""
    stack.write(stack.spec)
    if stack.enova("diff", str(stack.file), expect=None).code != OK:
        stack.apply()
    return stack
