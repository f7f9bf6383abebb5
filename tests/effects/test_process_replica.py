"""Engines as detached processes: whose they are, how they end, what is noted about it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from enova.base.errors import ActionFailed
from enova.base.secret import SecretRef
from enova.effects.drivers import process_launch, process_table, serving
from enova.effects.drivers.folder import KEPT_LOGS
from enova.effects.drivers.process_folder import Folder
from enova.stack.observed import Placement, State
from tests.effects.process_world import PYTHON, World, edit, until

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


def served(world: World, *args: tuple[str, str | int | bool]) -> Folder:
    folder = world.start(ID, *args)
    world.wait(ID)
    return folder


def pids(folder: Folder) -> tuple[int, int]:
    shim, process = folder.shim(), folder.process()
    assert shim is not None
    assert process is not None
    return shim.pid, process.pid


# --- whose it is -----------------------------------------------------------------------------


def test_an_engine_outlives_the_enova_that_started_it(world: World) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.effects.process_world import World
world = World(Path({str(world.state)!r}))
world.start({ID!r})
world.wait({ID!r})
"""
    starter = subprocess.Popen([PYTHON, "-c", program], start_new_session=True)
    assert starter.wait(30) == 0
    # What a closing terminal sends to everything that was started in it.
    for pid in pids(world.folder(ID)):
        assert os.getsid(pid) != starter.pid
        assert os.getpgid(pid) != starter.pid
    os.kill(pids(world.folder(ID))[0], signal.SIGHUP)
    assert world.seen().state is State.SERVING
    world.stop()
    assert world.mine() == []


def test_a_recycled_pid_is_not_taken_for_ours(world: World) -> None:
    folder = served(world)
    shim, process = pids(folder)
    foreign = subprocess.Popen(["sleep", "600"])
    try:
        for pid in (shim, process):
            os.kill(pid, signal.SIGKILL)
        until(lambda: world.mine() == [])
        now = process_table.identify(foreign.pid)
        assert now is not None

        def point_there(data: dict[str, object]) -> None:
            data["shim"] = data["process"] = {"pid": foreign.pid, "start": now.start}

        (folder.path / "exit.json").unlink(missing_ok=True)
        edit(folder.path / "pids.json", point_there)
        assert world.seen().state is State.EXITED
        world.stop()
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_a_pid_of_an_earlier_boot_is_not_ours(world: World) -> None:
    folder = served(world)
    edit(folder.path / "pids.json", lambda data: data.update(boot="another"))
    seen = world.seen()
    assert seen.state is State.EXITED
    assert seen.exit_reason == "the machine restarted"


def test_another_stack_is_not_ours(world: World) -> None:
    served(world)
    other = World(world.state.with_name("other"))
    assert other.driver.observe().instances == ()
    assert other.mine() == []


def test_an_interrupted_start_is_seen_and_can_be_repeated(world: World) -> None:
    folder = served(world)
    world.stop()
    world.start(ID)
    world.wait(ID)
    saved = (folder.path / "meta.json").read_text()
    world.stop()
    folder.path.mkdir()
    (folder.path / "meta.json").write_text(saved)
    seen = world.seen()
    assert seen.state is State.EXITED
    assert "never started" in str(seen.exit_reason)
    world.start(ID)
    world.wait(ID)
    assert world.seen().state is State.SERVING


def test_a_folder_that_was_cut_short_is_swept(world: World) -> None:
    world.ground.prepare(world.ground.instances / "chat-replica-7-cut")
    assert world.driver.observe().instances == ()
    world.start(ID)
    assert [folder.id for folder in world.ground.owned()] == [ID]


def test_a_second_shim_for_the_same_folder_does_nothing(world: World) -> None:
    folder = served(world)
    before = pids(folder)
    (folder.path / "pids.json").rename(folder.path / "hidden")
    world.start(ID)
    (folder.path / "hidden").rename(folder.path / "pids.json")
    assert pids(folder) == before
    assert len(world.mine()) == 2


# --- how it ends -----------------------------------------------------------------------------


def test_a_killed_engine_is_seen_with_its_reason(world: World) -> None:
    folder = served(world, ("child", True))
    os.kill(pids(folder)[1], signal.SIGKILL)
    until(lambda: world.seen().state is State.EXITED)
    until(lambda: folder.exit() is not None)
    assert "SIGKILL" in str(world.seen().exit_reason)
    assert members_of(folder) == []


def test_a_killed_shim_takes_its_engine_along(world: World) -> None:
    folder = served(world)
    shim, process = pids(folder)
    os.kill(shim, signal.SIGKILL)
    until(lambda: process_table.identify(process) is None)
    seen = world.seen()
    assert seen.state is State.EXITED
    assert seen.exit_reason == "killed together with its shim"


def test_what_a_killed_pair_left_is_ended_by_stop(world: World) -> None:
    """An engine's child that lost its environment, after both above it were killed."""
    folder = served(world, ("child", True))
    child = members_of(folder)
    assert len(child) == 2
    engine = pids(folder)[1]
    for pid in pids(folder):
        os.kill(pid, signal.SIGKILL)
    until(lambda: world.seen().state is State.EXITED)
    # Held up by nobody, the child lives on, and only stopping the instance ends it.
    until(lambda: process_table.identify(engine) is None)
    assert members_of(folder) == [pid for pid in child if pid != engine]
    world.stop()
    assert not any(process_table.identify(pid) for pid in child)


def test_children_end_with_their_engine(world: World) -> None:
    folder = served(world, ("child", True))
    both = members_of(folder)
    assert len(both) == 2
    world.stop()
    assert not any(process_table.identify(pid) for pid in both)


def test_a_stubborn_engine_is_killed_after_the_grace(world: World) -> None:
    folder = served(world, ("stubborn", True), ("child", True))
    all_of_it = [*pids(folder), *members_of(folder)]
    world.stop(grace_s=0.3)
    assert any("killing" in line for line in world.told)
    assert not any(process_table.identify(pid) for pid in all_of_it)
    assert not folder.path.exists()


def test_a_stopped_shim_does_not_prevent_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_launch, "_NOTE_S", 0.5)
    folder = served(world)
    os.kill(pids(folder)[0], signal.SIGSTOP)
    world.stop(grace_s=0.3)
    assert world.mine() == []


def members_of(folder: Folder) -> list[int]:
    """The engine and its children."""
    shim = folder.shim()
    assert shim is not None
    return [identity.pid for identity in process_table.leftovers(shim, folder.process())]


# --- the wait for the first token ------------------------------------------------------------


def test_the_wait_tells_its_phases(world: World) -> None:
    served(world, ("say", "Starting to load model tiny"))
    assert [word for word in world.told if not word.startswith("port")] == [
        "process",
        "weights",
        "server",
        "http",
        "first token",
    ]


def test_the_wait_ends_with_its_time_and_says_how_far_it_came(world: World) -> None:
    world.start(ID, ("never-listen", True), ("say", "Starting to load model tiny"))
    with pytest.raises(ActionFailed, match="no token within 1 s; reached: process, weights"):
        world.wait(ID, timeout_s=1.0)


def test_an_engine_that_refuses_the_request_ends_the_wait_at_once(world: World) -> None:
    world.start(ID, ("no-token", 400))
    with pytest.raises(ActionFailed, match=r"400: .*no tokens here"):
        world.wait(ID, timeout_s=600.0)


def test_a_port_that_somebody_took_first_is_replaced(world: World) -> None:
    signal_file = world.state.parent / "go"
    world.start(ID, ("hold", str(signal_file)))
    lost = int(str(world.seen().endpoint).rpartition(":")[2])
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", lost))
        thief.listen()
        signal_file.touch()
        world.wait(ID)
        seen = world.seen()
        assert seen.state is State.SERVING
        assert seen.endpoint != f"127.0.0.1:{lost}"
        assert any("was taken" in line for line in world.told)


def test_a_missing_program_is_named(world: World) -> None:
    with pytest.raises(ActionFailed, match='"/nowhere/vllm" of engine vllm is not on this'):
        world.start(ID, executable="/nowhere/vllm")
    assert world.driver.observe().instances == ()


def test_a_program_that_cannot_run_is_named(world: World) -> None:
    broken = world.state.parent / "broken"
    broken.write_text("#!/nowhere/interpreter\n")
    broken.chmod(0o700)
    with pytest.raises(ActionFailed, match="No such file"):
        world.start(ID, executable=str(broken))
    assert world.seen().state is State.EXITED


# --- health ----------------------------------------------------------------------------------


def test_late_is_not_dead_until_it_stays_silent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEALTH_TIMEOUT_S", 0.2)
    folder = served(world)
    os.kill(pids(folder)[1], signal.SIGSTOP)
    states = [world.seen().state for _ in range(serving.SILENT_TIMES)]
    assert states == [State.SERVING, State.SERVING, State.UNHEALTHY]
    os.kill(pids(folder)[1], signal.SIGCONT)
    until(lambda: world.seen().state is State.SERVING)


def test_changes_from_outside_are_reported(world: World) -> None:
    folder = served(world)
    assert world.seen().tampered == ()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pids(folder)[1], {cores[0]})
        assert world.seen().tampered == ("it runs on other cores than it was given",)
        os.sched_setaffinity(pids(folder)[1], cores)
    edit(folder.path / "meta.json", lambda data: data.update(fields=[["args.x", 1]]))
    assert world.seen().tampered == ("the note of what it was started with was changed",)


def test_cores_are_pinned_where_they_exist(world: World) -> None:
    cores = sorted(os.sched_getaffinity(0))
    folder = world.start(ID, placement=Placement("local", cores=(0,)))
    assert process_table.affinity(pids(folder)[1]) == {cores[0]}
    beyond = Placement("local", cores=(0, len(cores)))
    other = world.start("chat-replica-1-b", placement=beyond)
    assert process_table.affinity(pids(other)[1]) == set(cores)


# --- secrets and files -----------------------------------------------------------------------


def test_a_secret_reaches_the_engine_and_nothing_else(world: World) -> None:
    canary = "canary-5f1c9e"
    world.surroundings["MY_TOKEN"] = canary
    world.driver = world.another()
    folder = world.start(
        ID, ("say-env", "HF_TOKEN"), secret_env=(("HF_TOKEN", SecretRef(env="MY_TOKEN")),)
    )
    world.wait(ID)
    shim, process = pids(folder)
    assert process_table.environment(process)["HF_TOKEN"] == canary
    assert "MY_TOKEN" not in process_table.environment(process)
    for pid in (shim, process):
        assert canary not in " ".join(process_table.command_line(pid))
    assert "HF_TOKEN=[secret]" in list(world.driver.logs(ID, tail=10, follow=False))
    world.stop()
    files = [path for path in world.state.rglob("*") if path.is_file()]
    assert not [path for path in files if canary in path.read_text(errors="replace")]


def test_a_missing_secret_is_named_by_its_reference(world: World) -> None:
    with pytest.raises(ActionFailed, match="HF_TOKEN: environment variable NOT_THERE is not set"):
        world.start(ID, secret_env=(("HF_TOKEN", SecretRef(env="NOT_THERE")),))


def test_everything_is_readable_by_the_user_alone(world: World) -> None:
    served(world)
    for path in (world.state, *world.state.rglob("*")):
        mode = path.stat().st_mode
        if not stat.S_ISSOCK(mode):
            assert stat.S_IMODE(mode) & 0o077 == 0, path


HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "a; touch pwned",
    "quo\"te's",
    "line\nbreak",
    "--model",
    "{{ 7 * 7 }} ${HOME} %s",
    "\x1b[31mred",
    "!unsafe *a &b",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_value_stays_one_word(world: World, text: str) -> None:
    folder = world.start(ID, ("say", text))
    shown = {text, f"--say={text}"}
    until(lambda: bool(shown & set(process_table.command_line(pids(folder)[1]))))
    assert not list(world.state.rglob("pwned"))


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "..", ".hidden", "x" * 200, "A\x00b"])
def test_an_id_cannot_lead_out_of_the_folder(world: World, name: str) -> None:
    with pytest.raises(ActionFailed):
        world.start(name)
    assert not world.state.exists()


# --- output ----------------------------------------------------------------------------------


def test_output_is_bounded_and_read_across_its_files(world: World) -> None:
    world.log_bytes = 10_000
    world.driver = world.another()
    folder = world.start(ID, ("lines", 1000))
    world.wait(ID)
    files = list(folder.path.glob("engine.log*"))
    assert len(files) == world.ground.log_keep
    assert sum(path.stat().st_size for path in files) <= world.ground.log_keep * world.log_bytes
    lines = list(world.driver.logs(ID, tail=200, follow=False))
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    assert numbers == list(range(numbers[0], 1000))
    assert len(numbers) > 150


def test_following_ends_with_the_engine_and_misses_nothing(world: World) -> None:
    world.log_bytes = 20_000
    world.driver = world.another()
    gate = world.state.parent / "go"
    world.start(ID, ("say", "first"), ("hold", str(gate)))
    until(lambda: "first" in list(world.driver.logs(ID, tail=5, follow=False)))
    lines = world.driver.logs(ID, tail=5, follow=True)
    assert next(lines) == "first"
    gate.touch()
    world.wait(ID)
    assert next(lines) == "Application startup complete."
    world.stop()
    assert list(lines) == []


def test_the_output_of_a_failed_instance_is_kept_for_a_while(world: World) -> None:
    names = [f"chat-replica-{n}-x" for n in range(KEPT_LOGS + 1)]
    for name in names:
        world.start(name, ("refuse", f"no {name}"))
        with pytest.raises(ActionFailed):
            world.wait(name)
        world.stop(name)
    kept = sorted(path.name for path in world.ground.last.iterdir())
    assert kept == names[1:]
    assert any(
        "no chat-replica-5-x" in line
        for line in world.driver.logs(names[-1], tail=20, follow=False)
    )
    served(world)
    world.stop()
    assert ID not in {path.name for path in world.ground.last.iterdir()}


def test_notes_name_what_was_started(world: World) -> None:
    folder = world.start(ID, ("say", "hello"))
    meta = json.loads((folder.path / "meta.json").read_text())
    assert meta["address"] == "chat/replica/0"
    assert meta["cause"] == "the test"
    assert meta["argv"][-2:] == ["--port", str(meta["port"])]
