"""Digests as a real registry gives them through a real engine, and as they are pinned and run."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enova.effects.drivers import docker_images
from enova.effects.drivers.base import ImageAnswer
from enova.effects.drivers.docker_engine import Engine
from enova.effects.execute import StopFlag
from enova.stack.plan import Plan
from enova.workflows.apply import carry_out
from enova.workflows.destroy import plan_destroy
from enova.workflows.loading import Source
from enova.workflows.lock import lock
from enova.workflows.plan import Planned, plan
from enova.workflows.rollback import plan_rollback
from enova.workflows.wiring import Site, Surroundings, open_named
from tests.effects.gateway_real.gateway_world import free_port
from tests.parts.containers import DockerEngine
from tests.parts.registry import Registry

IMAGE = "tiny:1"
NODE = "monitoring/node-exporter"


@pytest.fixture
def registry(docker_engine: DockerEngine, tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tmp_path / "registry", docker_engine)
    made.start()
    yield made
    made.end()


def ask(*references: str, **surroundings: str) -> dict[str, ImageAnswer]:
    return dict(docker_images.digests(Engine({**os.environ, **surroundings}), references))


def test_a_registry_that_answers_gives_the_digest_of_what_was_pushed(registry: Registry) -> None:
    first = registry.push(IMAGE, base=None, content="one")
    name, unknown = registry.name(IMAGE), registry.name("tiny:2")
    found = ask(name, unknown)
    assert found[name] == ImageAnswer(first)
    assert found[unknown].digest is None
    assert "manifest unknown" in found[unknown].reason
    second = registry.push(IMAGE, base=None, content="two")
    assert first != second
    assert ask(name)[name] == ImageAnswer(second)


def test_a_registry_that_is_stopped_is_an_answer_in_words(registry: Registry) -> None:
    registry.push(IMAGE, base=None, content="one")
    registry.stop()
    answer = ask(registry.name(IMAGE))[registry.name(IMAGE)]
    assert answer == ImageAnswer(None, f"127.0.0.1:{registry.port}: connection refused")


def test_an_image_that_was_built_here_is_called_so(
    registry: Registry, docker_engine: DockerEngine
) -> None:
    registry.push(IMAGE, base=None, content="one")
    local = registry.name("local:1")
    docker_engine.docker("build", "--quiet", "--tag", local, "-", data=b"FROM scratch\nLABEL a=b\n")
    registry.pushed.append(local)
    answer = ask(local)[local]
    assert answer.digest is None
    assert answer.reason.startswith("it was built or loaded on this machine; ")


def test_the_users_login_is_used(registry: Registry, tmp_path: Path) -> None:
    digest = registry.push(IMAGE, base=None, content="one")
    name = registry.name(IMAGE)
    registry.stop()
    registry.login = True
    registry.start()
    logged_in = tmp_path / "logged-in"
    logged_in.mkdir()
    (logged_in / "config.json").write_text(json.dumps(registry.credentials()))
    anonymous = tmp_path / "anonymous"
    anonymous.mkdir()
    socket = f"unix://{Engine(os.environ).socket}"
    refused = ask(name, DOCKER_CONFIG=str(anonymous), DOCKER_HOST=socket)[name]
    assert refused.digest is None
    assert "no basic auth credentials" in refused.reason or "unauthorized" in refused.reason
    assert ask(name, DOCKER_CONFIG=str(logged_in), DOCKER_HOST=socket)[name] == ImageAnswer(digest)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (
            'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io on '
            "10.0.0.53:53: no such host",
            "registry-1.docker.io: no such host",
        ),
        (
            'Get "http://127.0.0.1:5000/v2/": dial tcp 127.0.0.1:5000: connect: connection refused',
            "127.0.0.1:5000: connection refused",
        ),
        (
            "errors:\ndenied: requested access to the resource is denied\n"
            "unauthorized: authentication required\n",
            "denied: requested access to the resource is denied; "
            "unauthorized: authentication required",
        ),
        ("manifest unknown: manifest unknown", "manifest unknown: manifest unknown"),
        ("the engine does not answer: Read timed out.", "no answer within 10 s"),
        ("", "no reason given"),
    ],
)
def test_refusals_are_told_in_a_few_words(refusal: str, words: str) -> None:
    assert docker_images.brief(refusal) == words


# --- from the lock to the container ----------------------------------------------------------


SPEC = """\
version: 1
name: {name}
services:
  chat:
    model: meta-llama/Llama-3.1-8B-Instruct
    engine: {{name: emulator}}
    traffic: {{peak: 1/s, input_tokens: 100, output_tokens: 20}}
    scale: {{min: 1, max: 1}}
gateway: {{port: {port}}}
monitoring:
  prometheus: off
  alertmanager: off
  grafana: off
  tempo: off
  otel: off
  dcgm: off
  node: {{enabled: on, image: "{image}"}}
pool:
  target: compose
  hosts: [{{name: local, devices: [{{gpu: h100-sxm-80gb, count: 2}}]}}]
"""


class Pinned:
    """A stack whose node exporter comes from the registry; all else is on this machine only."""

    def __init__(self, folder: Path, image: str, port: int) -> None:
        self.name = f"pin{uuid.uuid4().hex[:6]}"
        self.spec = folder / f"{self.name}.enova.yaml"
        self.spec.write_text(SPEC.format(name=self.name, image=image, port=port))
        self.surroundings = Surroundings({**os.environ, "ENOVA_STATE_DIR": str(folder / "state")})

    @property
    def here(self) -> Site:
        return open_named(self.surroundings, self.name, env="")

    def plan(self) -> Planned:
        return plan(Source(str(self.spec)), self.surroundings)

    def apply(self) -> None:
        planned = self.plan()
        self.carry_out(planned.plan, planned.site)

    def carry_out(self, made: Plan, here: Site) -> None:
        done = carry_out(
            made, here, emit=lambda _: None, stop=StopFlag(), command="test", wait_s=0.0
        )
        assert done.outcome.result == "succeeded", done.outcome

    def lock(self, *, upgrade: bool = False) -> tuple[str, ...]:
        source = Source(str(self.spec))
        return lock(source, self.surroundings, upgrade=upgrade, check=False).images_changed

    def images(self) -> dict[str, object]:
        """The image of every component, as it was started."""
        seen = self.here.driver.observe()
        return {c.address: dict(c.fields).get("image") for c in seen.components}

    def moved(self) -> list[tuple[str, str, str, object, object]]:
        return [
            (change.address, change.reason.value, f.path, f.before, f.after)
            for change in self.plan().plan.changes
            for f in change.fields
        ]


def test_a_stack_runs_the_digest_of_its_lock_whatever_becomes_of_the_tag(
    registry: Registry,
    docker_engine: DockerEngine,
    docker_image: Callable[[str], str],
    tmp_path: Path,
) -> None:
    for here in ("enova", "envoy"):
        docker_image(here)
    base, name = docker_image("node-exporter"), registry.name("node:1")
    first = registry.push("node:1", base=base, content="one")
    stack = Pinned(tmp_path, name, free_port())
    try:
        stack.lock()
        notes = [note for note in stack.plan().plan.notes if "by tag" in note]
        assert len(notes) == 1
        assert "built or loaded on this machine" in notes[0]
        assert name not in notes[0]
        # Nothing of it is here any more: it is pulled by its digest.
        for known in registry.pushed:
            docker_engine.attempt("image", "rm", "--force", known)
        stack.apply()
        assert stack.images()[NODE] == f"{name}@{first}"
        assert label_of(docker_engine, stack.name) == "one"

        second = registry.push("node:1", base=base, content="two")
        assert stack.plan().plan.is_empty
        assert stack.lock() == ()
        assert stack.lock(upgrade=True) == (name,)
        assert stack.moved() == [
            (NODE, "choice changed", "image", f"{name}@{first}", f"{name}@{second}")
        ]
        stack.apply()
        assert label_of(docker_engine, stack.name) == "two"
        assert stack.plan().plan.is_empty

        registry.stop()
        assert stack.lock(upgrade=True) == ()
        assert stack.plan().plan.is_empty
        (stack.spec.parent / "enova.lock").unlink()
        notes = [note for note in stack.plan().plan.notes if name in note]
        assert [f"127.0.0.1:{registry.port}: connection refused" in note for note in notes] == [
            True
        ]
        back = plan_rollback(stack.here, serial=None).plan
        stack.carry_out(back, stack.here)
        assert label_of(docker_engine, stack.name) == "one"
    finally:
        stack.carry_out(plan_destroy(stack.here), stack.here)
        docker_engine.sweep(f"enova-{stack.name}")


def label_of(engine: DockerEngine, stack: str) -> str:
    """What the running node exporter's image was made with."""
    wanted = ["--filter", f"label=enova.stack={stack}", "--filter", f"label=enova.address={NODE}"]
    (container,) = engine.docker("container", "ls", "--quiet", *wanted).split()
    form = '{{index .Config.Labels "content"}}'
    return engine.docker("container", "inspect", "--format", form, container).strip()
