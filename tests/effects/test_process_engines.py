"""The engines that are really used, under the process driver: the emulator and vLLM."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from enova.base.errors import ActionFailed
from enova.effects.drivers import process_table
from enova.stack.observed import State
from tests.effects.process_world import World, until
from tests.parts import real

pytestmark = pytest.mark.real

ID = "chat-replica-0-a"


@pytest.fixture
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="enova-process-"))
    made = World(folder / "demo")
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


def get(world: World, path: str) -> str:
    with urllib.request.urlopen(f"http://{world.seen().endpoint}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def test_the_emulator_serves_and_ends(world: World) -> None:
    world.start(ID, ("max-model-len", 1024), engine="emulator", engine_version="1", executable="")
    world.wait(ID)
    assert world.seen().state is State.SERVING
    assert "vllm:num_requests_running" in get(world, "/metrics")
    world.stop()
    assert world.mine() == []


def test_what_the_emulator_refuses_is_named(world: World) -> None:
    world.start(ID, ("max-num-seqs", "many"), engine="emulator", engine_version="1", executable="")
    with pytest.raises(ActionFailed, match=r"--max-num-seqs.*many"):
        world.wait(ID)


# --- vLLM ------------------------------------------------------------------------------------

ENVIRONMENT = tuple(
    (name, value)
    for name, value in sorted(real.VLLM_ENVIRONMENT.items())
    if name != "VLLM_ENABLE_V1_MULTIPROCESSING"
)
ARGUMENTS = (
    ("enforce-eager", True),
    ("kv-cache-memory-bytes", 67108864),
    ("max-model-len", 1024),
    ("shutdown-timeout", 5),
)


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_vllm_serves_is_killed_and_leaves_nothing(
    world: World, vllm_binary: Path, tiny_model: Path
) -> None:
    """With its engine core as a process of its own, as it runs on GPUs."""
    more = {"executable": str(vllm_binary), "model": str(tiny_model), "env": ENVIRONMENT}
    folder = world.start(ID, *ARGUMENTS, **more)
    world.wait(ID, timeout_s=300)
    seen = world.seen()
    assert (seen.state, seen.tampered) == (State.SERVING, ())
    assert {"weights", "kv cache", "server", "http", "first token"} <= set(world.told)
    shim, process = folder.shim(), folder.process()
    assert shim is not None
    assert process is not None
    whole = process_table.leftovers(shim, process)
    assert len(whole) > 1

    os.kill(process.pid, signal.SIGKILL)
    until(lambda: folder.exit() is not None, deadline_s=30)
    assert process_table.wait_gone(whole, timeout_s=10)
    assert "SIGKILL" in str(world.seen().exit_reason)
    world.stop()

    world.start(ID, *ARGUMENTS, **more)
    world.wait(ID, timeout_s=300)
    folder = world.folder(ID)
    shim, process = folder.shim(), folder.process()
    assert shim is not None
    whole = process_table.leftovers(shim, process)
    world.stop(grace_s=30)
    assert not any("killing" in word for word in world.told)
    assert not any(identity.alive() for identity in whole)


@pytest.mark.vllm
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        (("max-num-seqs", "many"), r"argument --max-num-seqs: .*many"),
        (("max-model-len", 999999), r"max_model_len \(999999\) is greater"),
    ],
)
def test_what_vllm_refuses_is_named(
    world: World,
    vllm_binary: Path,
    tiny_model: Path,
    argument: tuple[str, str | int],
    reason: str,
) -> None:
    arguments = dict(ARGUMENTS) | dict([argument])
    world.start(
        ID,
        *arguments.items(),
        executable=str(vllm_binary),
        model=str(tiny_model),
        env=ENVIRONMENT,
    )
    with pytest.raises(ActionFailed, match=reason) as caught:
        world.wait(ID, timeout_s=300)
    assert "input_value" not in caught.value.reason
    assert caught.value.log_tail
