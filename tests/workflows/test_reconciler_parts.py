"""The reconciler of a stack in containers: what the plan says of it, refuses, and renders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from enova.base.address import RECONCILER
from enova.base.errors import Refused
from enova.stack.actions import StartReconciler, StopReconciler
from enova.stack.render.compose_lint import lint
from enova.workflows.render import render
from tests.parts.containers import docker_engine
from tests.workflows.rehearsal import CHAT, Rehearsal, hosts

RUN = "no container reconciles the stack"


@pytest.fixture
def shop(tmp_path: Path) -> Rehearsal:
    """A stack on the compose target, of which the fake stands for the containers."""
    found = Rehearsal(tmp_path, hosts(8))
    socket = tmp_path / "docker.sock"
    socket.touch()
    environment = {
        **found.surroundings.environment,
        "DOCKER_HOST": f"unix://{socket}",
        "HF_TOKEN": "hf",
    }
    found.surroundings = replace(found.surroundings, environment=environment)
    wish(found, "auto")
    can(found, RECONCILER)
    return found


def wish(shop: Rehearsal, reconciler: str) -> None:
    secret = "    engine: {name: emulator, env: {HF_TOKEN: {env: HF_TOKEN}}, args:"
    text = CHAT.replace("    engine: {name: emulator, args:", secret)
    assert text != CHAT
    shop.write(f"{text}pool: {{target: compose, reconciler: {reconciler}}}\n")


def can(shop: Rehearsal, *programs: str) -> None:
    with shop.driver.edit() as world:
        world.monitors[:] = programs


def test_it_comes_with_the_stack_and_goes_first(shop: Rehearsal) -> None:
    made = shop.plan().plan
    assert isinstance(made.actions[-1].do, StartReconciler)
    assert not [note for note in made.notes if RUN in note]
    assert shop.apply().outcome.result == "succeeded"
    assert shop.plan().plan.is_empty
    ended = shop.destroy()
    assert ended.outcome.result == "succeeded"
    assert isinstance(ended.plan.actions[0].do, StopReconciler)


def test_the_reconciler_does_not_touch_itself(shop: Rehearsal) -> None:
    shop.apply()
    with shop.driver.edit() as world:
        (own,) = [c for c in world.components.values() if c.address == RECONCILER]
        del world.components[own.id]
    assert not shop.plan().plan.is_empty
    shop.tick()
    addresses = {component.address for component in shop.driver.observe().components}
    assert RECONCILER not in addresses


def test_without_its_image_the_first_plan_says_what_to_do(shop: Rehearsal) -> None:
    can(shop)
    (note,) = [note for note in shop.plan().plan.notes if RUN in note]
    assert "make image" in note
    assert "enova reconcile web" in note
    assert shop.apply().outcome.result == "succeeded"
    assert not [note for note in shop.plan().plan.notes if RUN in note]


def test_when_its_image_is_gone_it_goes_with_a_note(shop: Rehearsal) -> None:
    shop.apply()
    can(shop)
    made = shop.plan().plan
    assert [type(action.do) for action in made.actions] == [StopReconciler]
    assert [note for note in made.notes if RUN in note]


def test_a_container_that_cannot_be_is_refused(shop: Rehearsal) -> None:
    wish(shop, "container")
    can(shop)
    with pytest.raises(Refused, match="make image"):
        shop.plan()


def rendered(shop: Rehearsal) -> tuple[str, dict[str, Any]]:
    planned = shop.plan()
    text = render(planned.plan, planned.site)["compose.yaml"]
    document: dict[str, Any] = yaml.safe_load(text)
    return text, document


def test_it_is_a_service_of_the_rendered_file(shop: Rehearsal) -> None:
    text, document = rendered(shop)
    (own,) = [
        service
        for service in document["services"].values()
        if service["labels"]["enova.kind"] == RECONCILER
    ]
    assert own["profiles"] == [RECONCILER], "by hand it has nothing to keep"
    assert own["environment"]["HF_TOKEN"].startswith("${ENOVA_RECONCILER__HF_TOKEN:?")
    sources = {mount["source"] for mount in own["volumes"]}
    assert sources == {str(shop.folder / "state"), str(shop.folder / "docker.sock")}
    assert "HF_TOKEN: hf" not in text
    # The user is whoever runs the tests, who may be root.
    assert {finding.rule for finding in lint(document)} <= {"C05"}


@pytest.mark.real
def test_compose_takes_the_file_and_starts_it_only_when_told(shop: Rehearsal) -> None:
    text, document = rendered(shop)
    (shop.folder / "compose.yaml").write_text(text)
    variables = ("HF_TOKEN", "ENOVA_RECONCILER__HF_TOKEN", "ENOVA_CHAT__HF_TOKEN")
    (shop.folder / ".env").write_text("".join(f"{name}=x\n" for name in variables))
    (own,) = [name for name in document["services"] if name.startswith(RECONCILER)]
    engine = docker_engine()

    def services(*words: str) -> set[str]:
        said = engine.docker("compose", *words, "config", "--services", cwd=shop.folder)
        return set(said.split())

    assert services() == set(document["services"]) - {own}
    assert services("--profile", RECONCILER) == set(document["services"])
