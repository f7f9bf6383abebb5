"""The compose target on a real Docker engine: drift by hand, interruptions, devices, secrets."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from enova.base.errors import ActionFailed, Refused
from enova.base.secret import SecretRef
from enova.effects.drivers import docker_call, docker_container, ports
from enova.effects.drivers.docker_services import Services
from enova.stack.actions import (
    ChangeGateway,
    Join,
    RemoveStack,
    StartGateway,
    StartReplica,
    StopGateway,
)
from enova.stack.observed import Placement, State
from enova.stack.resources import Needs
from tests.effects.compose_world import SLOT, A, World, stand_in_image
from tests.effects.process_world import gateway, until
from tests.parts import real
from tests.parts.containers import DockerEngine, docker_image

pytestmark = pytest.mark.real

B = "chat-replica-0-bbbbbb"
GATE = "gateway-aaaaaa"


class Make:
    """Worlds of one test, all removed after it."""

    def __init__(self, folder: Path, docker: DockerEngine) -> None:
        self._folder = folder
        self._docker = docker
        self._image = stand_in_image(docker, docker_image(docker, "enova"))
        self.made: list[World] = []

    def __call__(self, **more: object) -> World:
        name = f"t{uuid.uuid4().hex[:8]}"
        state = self._folder / name
        made = World(state, name, self._docker, self._image, **more)  # type: ignore[arg-type]
        self.made.append(made)
        return made


@pytest.fixture
def make(docker_engine: DockerEngine) -> Iterator[Make]:
    docker_image(docker_engine, "envoy")
    folder = Path(tempfile.mkdtemp(prefix="enova-compose-"))
    worlds = Make(folder, docker_engine)
    yield worlds
    for world in worlds.made:
        world.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def world(make: Make) -> World:
    return make()


# --- by hand -----------------------------------------------------------------------------------


def test_a_container_removed_by_hand_is_told(world: World) -> None:
    world.serve()
    world.docker.docker("rm", "--force", world.container())
    seen = world.seen()
    assert (seen.state, seen.exit_reason) == (State.EXITED, "its container was removed by hand")
    world.stop()
    assert world.driver.observe().instances == ()


def test_a_container_stopped_by_hand_is_told(world: World) -> None:
    world.serve()
    world.docker.docker("stop", "--time", "5", world.container())
    seen = world.seen()
    assert seen.state is State.EXITED
    assert "stopped by hand" in str(seen.exit_reason)


def test_an_edited_label_is_drift(world: World) -> None:
    world.serve()
    file = world.ground.file
    file.write_text(file.read_text().replace("enova.apply: aaaaaa", "enova.apply: zzzzzz"))
    world.compose("up", "--detach", A)
    assert "its label enova.apply was changed from aaaaaa to zzzzzz" in world.seen().tampered


def test_a_label_that_says_it_is_somebody_elses_is_drift(world: World) -> None:
    world.serve()
    file = world.ground.file
    file.write_text(file.read_text().replace("enova.kind: replica", "enova.kind: other"))
    world.compose("up", "--detach", A)
    assert any("enova.kind" in words for words in world.seen().tampered)
    world.stop()
    assert world.docker.listed("container", "{{.Names}}", world.project) == []


def test_changed_limits_and_networks_are_drift(world: World) -> None:
    world.serve()
    world.docker.docker("update", "--memory", "300m", "--memory-swap", "-1", world.container())
    world.docker.docker("network", "disconnect", f"{world.project}_inside", world.container())
    words = " ".join(world.seen().tampered)
    assert "its limit memory was changed" in words
    assert "other networks" in words


def test_running_the_file_by_hand_changes_nothing(world: World) -> None:
    world.serve()
    before = world.docker.docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", world.container())
    world.compose("config", "--quiet")
    world.compose("up", "--detach")
    after = world.docker.docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", world.container())
    assert before == after
    assert not world.seen().tampered


def test_docker_starts_again_what_was_killed(world: World) -> None:
    world.serve()
    world.docker.docker("exec", world.container(), "sh", "-c", "kill -9 $(pidof python3)")
    until(
        lambda: world.docker.docker("inspect", "-f", "{{.RestartCount}}", world.container()) > "0"
    )
    until(lambda: world.seen().state is State.SERVING)
    assert not world.seen().tampered


# --- interrupted -------------------------------------------------------------------------------


class Killed(BaseException):
    """The whole process dies here."""


def dies(*_: object, **__: object) -> None:
    raise Killed


def test_noted_and_never_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Services, "up", dies)
        with pytest.raises(Killed):
            world.start()
    world.driver = world.another()
    seen = world.seen()
    assert seen.state is State.EXITED
    assert "never started" in str(seen.exit_reason)
    world.serve()
    assert world.seen().state is State.SERVING


def test_made_and_never_started(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Services, "_refuse_shared_devices", dies)
        with pytest.raises(Killed):
            world.start()
    world.driver = world.another()
    assert "never started" in str(world.seen().exit_reason)
    world.stop()
    world.do("stack", RemoveStack())
    assert world.docker.listed("container", "{{.Names}}", world.project) == []


def test_an_orphan_of_ours_is_seen_and_removed(world: World) -> None:
    world.serve()
    shutil.rmtree(world.folder().path)
    seen = world.seen()
    assert (seen.address, seen.state) == (SLOT, State.STARTING)
    assert "accounts for it" in " ".join(seen.tampered)
    world.stop()
    assert world.driver.observe().instances == ()
    assert world.docker.listed("container", "{{.Names}}", world.project) == []


def test_another_state_folder_is_told_apart(world: World, make: Make) -> None:
    world.serve()
    other = make()
    other.name = world.name
    other.driver = other.another()
    assert other.driver.observe().instances == ()
    with pytest.raises(Refused, match="another state folder"):
        other.start()
    assert world.seen().state is State.SERVING


# --- what it is made of ------------------------------------------------------------------------


def test_a_missing_image_says_what_to_do(world: World) -> None:
    with pytest.raises(ActionFailed, match="not on this machine, and the registry says"):
        world.start(A, image="enova-test/there-is-none:1")
    world.stop()
    assert world.driver.observe().instances == ()


def test_secrets_are_in_the_container_and_in_no_file(make: Make) -> None:
    world = make(surroundings={"TOKEN": "hush-hush-1234"})
    secret = (("HF_TOKEN", SecretRef(env="TOKEN")),)
    world.serve(A, ("say-env", "HF_TOKEN"), secret_env=secret)
    assert "hush-hush-1234" in world.docker.docker("logs", world.container())
    assert "[secret]" in "\n".join(world.driver.logs(A, tail=100, follow=False))
    assert "hush" not in "\n".join(world.driver.logs(A, tail=100, follow=False))
    files = [path for path in world.state.rglob("*") if path.is_file()]
    assert not [path for path in files if b"hush-hush" in path.read_bytes()]
    # Without the secret it can still be looked at and stopped.
    world.surroundings.clear()
    world.driver = world.another()
    assert world.seen().state is State.SERVING
    world.stop()


def test_containers_are_closed_as_far_as_they_can_be(world: World) -> None:
    port = ports.free_port((), seed=world.name)
    world.do("gateway", StartGateway(GATE, gateway(port)))
    world.serve()
    for name in (world.container(), world.container(GATE)):
        (data,) = json.loads(world.docker.docker("inspect", name))
        host = data["HostConfig"]
        assert not host["Privileged"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        bindings = [b for found in (host["PortBindings"] or {}).values() for b in found]
        assert all(binding["HostIp"] == "127.0.0.1" for binding in bindings)


def test_a_failed_replica_keeps_its_output(world: World) -> None:
    reason = "max_model_len 99999 is too long"
    world.start(A, ("refuse", reason))
    with pytest.raises(ActionFailed, match=reason):
        world.wait()
    world.stop()
    assert any(reason in line for line in world.driver.logs(A, tail=20, follow=False))


def test_output_is_followed_to_its_end(world: World) -> None:
    world.serve(A, ("lines", 3))
    lines = world.driver.logs(A, tail=100, follow=True)
    first = next(lines)
    world.docker.docker("stop", "--time", "5", world.container())
    assert [first, *lines]


# --- devices -----------------------------------------------------------------------------------


def gpu(index: int) -> tuple[Placement, Needs]:
    return Placement("local", gpus=(index,)), Needs("h100-sxm-80gb", 1, 0, 0)


def test_a_gpu_is_never_given_twice(make: Make) -> None:
    real.part_binary("docker devices")
    first, second = make(), make(env="prod")
    index = 1000 + uuid.uuid4().int % 100_000
    placement, needs = gpu(index)
    first.serve(A, placement=placement, needs=needs)
    (data,) = json.loads(first.docker.docker("inspect", first.container()))
    (request,) = data["HostConfig"]["DeviceRequests"]
    assert request["DeviceIDs"] == [str(index)]

    (claim,) = [c for c in second.driver.inventory().claims if index in c.indices]
    assert (claim.owner, claim.host) == (f"{SLOT} of stack {first.name}", "local")
    assert not [c for c in first.driver.inventory().claims if index in c.indices]

    with pytest.raises(ActionFailed, match=f"GPU {index} is held by {SLOT} of stack {first.name}"):
        second.start(A, placement=placement, needs=needs)
    second.stop()
    first.stop()
    second.serve(A, placement=placement, needs=needs)
    assert second.seen().placement == placement


# --- the gateway -------------------------------------------------------------------------------


def test_a_long_state_path_is_no_obstacle(make: Make) -> None:
    world = make()
    world.state = world.state.parent / ("long" * 20) / world.name
    world.state.parent.mkdir()
    world.driver = world.another()
    port = ports.free_port((), seed=world.name)
    world.do("gateway", StartGateway(GATE, gateway(port)))
    (component,) = world.driver.observe().components
    assert component.state is State.SERVING


def test_a_move_starts_the_second_gateway_first(world: World) -> None:
    port = ports.free_port((), seed=world.name)
    world.do("gateway", StartGateway(GATE, gateway(port)))
    world.serve()
    world.do(SLOT, Join("chat", A, 100))
    moved = ports.free_port((port,), seed=world.name)
    world.do("gateway", ChangeGateway(GATE, gateway(moved)))
    assert world.told.index("starting a second gateway") < world.told.index("draining")
    containers = world.docker.listed("container", "{{.Names}}", world.project)
    assert len([name for name in containers if GATE in name]) == 1
    assert ports.is_free(port)
    world.do("gateway", ChangeGateway(GATE, gateway(moved, host="0.0.0.0")))
    (component,) = world.driver.observe().components
    assert (component.id, component.state) == (GATE, State.SERVING)
    assert component.endpoint == f"0.0.0.0:{moved}"


def test_another_image_moves_the_gateway_and_one_that_is_not_to_be_had_does_not(
    world: World,
) -> None:
    port = ports.free_port((), seed=world.name)
    world.do("gateway", StartGateway(GATE, gateway(port)))
    before = world.driver.observe()
    with pytest.raises(ActionFailed, match="is not on this machine, and the registry says"):
        world.do("gateway", ChangeGateway(GATE, gateway(port, image="127.0.0.1:1/envoy:1")))
    assert world.driver.observe() == before
    assert "the gateway moves: its port is closed for a moment" not in world.told

    other = f"enova-test/envoy:{world.name}"
    world.docker.docker("image", "tag", docker_image(world.docker, "envoy"), other)
    try:
        world.do("gateway", ChangeGateway(GATE, gateway(port, image=other)))
        (component,) = world.driver.observe().components
        assert (component.state, dict(component.fields)["image"]) == (State.SERVING, other)
        assert world.docker.listed("container", "{{.Image}}", world.project) == [other]
    finally:
        world.docker.attempt("image", "rm", other)


def test_a_move_that_fails_leaves_the_gateway_where_it_is(world: World) -> None:
    port = ports.free_port((), seed=world.name)
    world.do("gateway", StartGateway(GATE, gateway(port)))
    before = world.driver.observe()
    taken = ports.free_port((port,), seed=f"{world.name}-taken")
    world.docker.docker(
        *(
            "run",
            "--detach",
            "--pull",
            "never",
            "--label",
            f"com.docker.compose.project={world.project}",
        ),
        *("--publish", f"127.0.0.1:{taken}:1", "--entrypoint", "sleep", world.image, "60"),
    )
    with pytest.raises(ActionFailed, match=f"port {taken} on 127.0.0.1 is taken"):
        world.do("gateway", ChangeGateway(GATE, gateway(taken)))
    assert world.driver.observe() == before


def test_a_move_cut_short_is_finished_by_the_next_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = ports.free_port((), seed=world.name)
    world.do("gateway", StartGateway(GATE, gateway(port)))
    moved = ports.free_port((port,), seed=world.name)
    compose = docker_call.compose

    def dies_at_stop(*words: object, **more: object) -> None:
        if "stop" in words:
            raise Killed
        compose(*words, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(docker_call, "compose", dies_at_stop)
        with pytest.raises(Killed):
            world.do("gateway", ChangeGateway(GATE, gateway(moved)))
    world.driver = world.another()
    (component,) = world.driver.observe().components
    assert component.endpoint == f"127.0.0.1:{moved}"
    world.do("gateway", ChangeGateway(GATE, gateway(moved)))
    containers = world.docker.listed("container", "{{.Names}}", world.project)
    assert len(containers) == 1
    world.do("gateway", StopGateway(GATE, 0.0))
    world.do("stack", RemoveStack())
    assert world.docker.belongings(world.project) == []


def test_downloaded_models_stay_unless_they_are_to_go(world: World) -> None:
    label = f"{docker_container.PROJECT}={world.project}"
    name = f"{world.project}_models"
    world.docker.docker("volume", "create", "--label", label, name)
    world.do("stack", RemoveStack())
    assert world.docker.belongings(world.project) == [f"volume {name}"]
    world.do("stack", RemoveStack(models=True))
    assert world.docker.belongings(world.project) == []


def test_an_id_that_ended_is_started_anew(world: World) -> None:
    world.serve()
    world.docker.docker("kill", world.container())
    again = world.template(("lines", 1))
    world.do(SLOT, StartReplica(A, again, Placement("local")))
    world.wait()
    assert world.seen().digest == again.digest
