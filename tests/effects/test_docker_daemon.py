"""A Docker engine that restarts under a running stack: an engine of the test's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException

import pytest

from enova.base.errors import Unreachable
from enova.effects.drivers import ports
from enova.stack.actions import Join, RemoveStack, StartGateway, StopGateway
from enova.stack.observed import State
from tests.effects.compose_world import SLOT, A, World, stand_in_image
from tests.effects.process_world import gateway, until
from tests.parts.containers import DockerEngine, docker_image
from tests.parts.daemon import Daemon, copied, own_daemon

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

GATE = "gateway-aaaaaa"


@pytest.fixture
def daemon(docker_engine: DockerEngine) -> Iterator[Daemon]:
    with own_daemon() as mine:
        yield mine


def answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        body = '{"model": "chat", "prompt": "x"}'
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body=body, headers=headers)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def test_a_stack_outlives_a_restart_of_its_engine(
    docker_engine: DockerEngine, daemon: Daemon
) -> None:
    base, envoy = docker_image(docker_engine, "enova"), docker_image(docker_engine, "envoy")
    image = stand_in_image(docker_engine, base)
    environment = {**docker_engine.environment, "DOCKER_HOST": daemon.host}
    own = DockerEngine(daemon.host, environment)
    copied(docker_engine, own, image, envoy)

    name = f"t{uuid.uuid4().hex[:8]}"
    world = World(daemon.folder / name, name, own, image, surroundings=environment)
    port = ports.free_port((), seed=name)
    world.do("gateway", StartGateway(GATE, gateway(port)))
    world.serve()
    world.do(SLOT, Join("chat", A, 100))
    assert answers(port)
    before = world.driver.observe()

    daemon.stop()
    with pytest.raises(Unreachable, match="Start it"):
        world.another().observe()
    daemon.start()
    until(lambda: answers(port), deadline_s=60.0)
    until(lambda: world.seen().state is State.SERVING)
    assert world.driver.observe() == before

    world.stop()
    world.do("gateway", StopGateway(GATE, 0.0))
    world.do("stack", RemoveStack())
    assert own.listed("container", "{{.Names}}", world.project) == []
    assert own.listed("network", "{{.Name}}", world.project) == []
