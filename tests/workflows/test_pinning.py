"""Images are pinned once, by the lock; a tag that moves changes nothing until the lock changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import enova
from enova.base.errors import Refused
from enova.cli.views.locking import lock_lines
from enova.cli.views.plan_markdown import plan_markdown
from enova.cli.views.plan_text import plan_lines
from enova.spec.lock import parse_lock, serialise
from enova.stack.document import plan_from_json, plan_to_json
from enova.stack.plan import Plan
from enova.workflows.loading import Source
from enova.workflows.lock import Locked, lock
from enova.workflows.plan import Planned
from tests.workflows.rehearsal import CHAT, Rehearsal

ENGINE = f"enova:{enova.__version__}"
ENVOY = "envoyproxy/envoy:v1.40.0"
PROMETHEUS = "prom/prometheus:v2.42.0"
A, B, C, D = (f"sha256:{letter * 64}" for letter in "abcd")

WEB = CHAT + "pool: {target: compose}\n"


@pytest.fixture
def web(web: Rehearsal) -> Rehearsal:
    """On a target that runs images; its registry knows all of them."""
    answer(web, {ENGINE: A, ENVOY: B, PROMETHEUS: C})
    web.write(WEB)
    return web


def answer(web: Rehearsal, known: dict[str, str] | None) -> None:
    """From now on the registry knows these; None: it does not answer."""
    with web.driver.edit() as world:
        world.registry = known


def running(web: Rehearsal) -> dict[str, object]:
    """The image of everything that runs, by address."""
    seen = web.driver.observe()
    found: dict[str, object] = {
        i.address: dict(i.fields).get("engine.image") for i in seen.instances
    }
    return found | {c.address: dict(c.fields).get("image") for c in seen.components}


def moved(planned: Planned | Plan) -> set[tuple[str, str, str, object, object]]:
    """What changes: address, reason, path, before, after."""
    made = planned.plan if isinstance(planned, Planned) else planned
    return {
        (change.address.partition("/replica/")[0], change.reason.value, f.path, f.before, f.after)
        for change in made.changes
        for f in change.fields
    }


def locked(web: Rehearsal, *, upgrade: bool = False, check: bool = False) -> Locked:
    return lock(Source(str(web.spec)), web.surroundings, upgrade=upgrade, check=check)


def lock_file(web: Rehearsal) -> Path:
    return web.folder / "enova.lock"


def test_the_first_apply_pins_and_locks_what_a_later_plan_finds(web: Rehearsal) -> None:
    made = web.apply(WEB).plan
    assert not any("by tag" in note for note in made.notes)
    assert running(web) == {
        "chat/replica/0": f"{ENGINE}@{A}",
        "chat/replica/1": f"{ENGINE}@{A}",
        "gateway": f"{ENVOY}@{B}",
        "monitoring/prometheus": f"{PROMETHEUS}@{C}",
    }
    held = json.loads(lock_file(web).read_text())["images"]["web"]["default"]
    assert {name: entry["digest"] for name, entry in held.items()} == {
        ENGINE: A,
        ENVOY: B,
        PROMETHEUS: C,
    }
    assert web.plan().plan.is_empty
    assert web.plan(locked=True).plan.is_empty


def test_a_moved_tag_changes_nothing_until_the_lock_is_upgraded(web: Rehearsal) -> None:
    web.apply(WEB)
    answer(web, {ENGINE: D, ENVOY: B, PROMETHEUS: D})
    assert web.plan().plan.is_empty
    assert locked(web).images_changed == ()
    assert web.plan().plan.is_empty

    now = locked(web, upgrade=True)
    assert now.images_changed == (ENGINE, PROMETHEUS)
    said = [line.text for line in lock_lines(now, written=True)]
    assert f"~ {ENGINE}  sha256:aaaaaaaaaaaa -> sha256:dddddddddddd" in said
    assert moved(web.plan()) == {
        ("chat", "choice changed", "engine.image", f"{ENGINE}@{A}", f"{ENGINE}@{D}"),
        (
            "monitoring/prometheus",
            "choice changed",
            "image",
            f"{PROMETHEUS}@{C}",
            f"{PROMETHEUS}@{D}",
        ),
    }
    web.apply()
    assert running(web)["chat/replica/0"] == f"{ENGINE}@{D}"
    assert web.plan().plan.is_empty


def test_two_digests_that_differ_do_not_look_the_same(web: Rehearsal) -> None:
    web.apply(WEB)
    answer(web, {ENGINE: D, ENVOY: B, PROMETHEUS: C})
    locked(web, upgrade=True)
    made = web.plan().plan
    text = "\n".join(line.text for line in plan_lines(made))
    short = f"{ENGINE}@sha256:aaaaaaaaaaaa -> {ENGINE}@sha256:dddddddddddd"
    assert short in text
    assert short in plan_markdown(made)
    assert f"{ENGINE}@{D}" in plan_to_json(made)


def test_without_a_registry_the_tag_is_used_and_said_once(web: Rehearsal) -> None:
    answer(web, {ENVOY: B, PROMETHEUS: C})
    made = web.plan().plan
    (note,) = [note for note in made.notes if "by tag" in note]
    assert f"{ENGINE} (manifest unknown)" in note
    assert ENVOY not in note
    assert "enova lock" in note and "docker login" in note
    for text in (
        "\n".join(line.text for line in plan_lines(made)),
        plan_markdown(made),
        json.dumps(json.loads(plan_to_json(made))["notes"]),
    ):
        assert text.count("by tag, not by digest") == 1
    web.apply()
    assert running(web)["chat/replica/0"] == ENGINE
    assert running(web)["gateway"] == f"{ENVOY}@{B}"


def test_one_that_did_not_answer_is_not_asked_again_by_plans(web: Rehearsal) -> None:
    answer(web, None)
    web.apply(WEB)
    answer(web, {ENGINE: A, ENVOY: B, PROMETHEUS: C})
    made = web.plan().plan
    assert made.is_empty
    assert any("by tag" in note and "no such host" in note for note in made.notes)
    assert locked(web).images_changed == (ENGINE, ENVOY, PROMETHEUS)
    assert ("gateway", "choice changed", "image", ENVOY, f"{ENVOY}@{B}") in moved(web.plan())
    assert not any("by tag" in note for note in web.plan().plan.notes)


def test_an_upgrade_keeps_the_digest_of_what_does_not_answer(web: Rehearsal) -> None:
    web.apply(WEB)
    answer(web, None)
    now = locked(web, upgrade=True)
    assert now.images_changed == ()
    assert any("kept" in note and ENVOY in note for note in now.notes)
    assert web.plan(locked=True).plan.is_empty


def test_locked_fails_for_an_image_that_the_lock_does_not_hold(web: Rehearsal) -> None:
    web.apply(WEB)
    web.write(WEB.replace("name: emulator,", "name: emulator, image: 'other:1',"))
    with pytest.raises(Refused, match="holds no digest of other:1"):
        web.plan(locked=True)
    with pytest.raises(Refused, match=r"not current for .*other:1"):
        locked(web, check=True)
    assert moved(web.plan()) == {
        ("chat", "spec changed", "engine.image", f"{ENGINE}@{A}", "other:1")
    }


def test_locked_fails_before_anything_was_applied_too(web: Rehearsal) -> None:
    locked(web)
    assert web.plan(locked=True).plan.next_images["gateway"] == f"{ENVOY}@{B}"
    web.write(WEB.replace("name: emulator,", "name: emulator, image: 'other:1',"))
    with pytest.raises(Refused, match="holds no digest of other:1"):
        web.plan(locked=True)


def test_locked_fails_when_what_was_pinned_goes_by_tag(web: Rehearsal) -> None:
    web.apply(WEB)
    web.write(WEB.replace("name: emulator,", "name: emulator, image: 'other:1',"))
    locked(web)
    locked(web, check=True)
    with pytest.raises(Refused, match="holds no digest of other:1"):
        web.plan(locked=True)


def test_a_lock_of_before_images_is_read_and_says_nothing_of_them(web: Rehearsal) -> None:
    answer(web, None)
    locked(web)
    old = json.loads(lock_file(web).read_text())
    del old["images"]
    lock_file(web).write_text(json.dumps({**old, "format": 1}))
    made = web.plan(locked=True).plan
    assert any("enova.lock says nothing of it" in note for note in made.notes)
    answer(web, {ENGINE: A, ENVOY: B, PROMETHEUS: C})
    web.apply()
    assert running(web)["gateway"] == f"{ENVOY}@{B}"
    assert web.plan(locked=True).plan.is_empty


def test_an_image_pinned_by_the_spec_is_asked_of_nobody(web: Rehearsal) -> None:
    answer(web, None)
    mine = f"other:1@{D}"
    web.apply(WEB.replace("name: emulator,", f"name: emulator, image: '{mine}',"))
    assert running(web)["chat/replica/0"] == mine
    assert "other:1" not in lock_file(web).read_text()


def test_rollback_and_the_reconciler_keep_the_image_that_ran(web: Rehearsal) -> None:
    web.apply(WEB)
    answer(web, {ENGINE: D, ENVOY: B, PROMETHEUS: C})
    locked(web, upgrade=True)
    web.tick()
    assert running(web)["chat/replica/0"] == f"{ENGINE}@{A}"
    web.apply()
    back = web.rollback().plan
    assert {after for *_, after in moved(back)} == {f"{ENGINE}@{A}"}
    assert running(web)["chat/replica/0"] == f"{ENGINE}@{A}"
    with web.driver.edit() as world:
        next(iter(world.instances.values())).exit("killed")
    web.tick()
    assert {image for what, image in running(web).items() if what.startswith("chat/")} == {
        f"{ENGINE}@{A}"
    }


def test_a_saved_plan_binds_its_images_and_writes_them(web: Rehearsal, tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    made = web.plan().plan
    assert plan_from_json(plan_to_json(made)) == made
    saved.write_text(plan_to_json(made))
    answer(web, {ENGINE: D, ENVOY: D, PROMETHEUS: D})
    web.apply_saved(saved)
    assert running(web)["gateway"] == f"{ENVOY}@{B}"
    assert web.plan(locked=True).plan.is_empty


def test_a_saved_plan_is_stale_once_the_lock_holds_another_image(
    web: Rehearsal, tmp_path: Path
) -> None:
    saved = tmp_path / "plan.json"
    saved.write_text(plan_to_json(web.plan().plan))
    answer(web, {ENGINE: D, ENVOY: B, PROMETHEUS: C})
    locked(web)
    with pytest.raises(Refused, match=r"enova\.lock changed"):
        web.apply_saved(saved)


def test_images_that_nothing_uses_any_more_leave_the_lock(web: Rehearsal) -> None:
    web.apply(WEB)
    web.write(WEB.replace("target: compose", "target: process"))
    assert locked(web).images_changed == (ENGINE, ENVOY, PROMETHEUS)
    assert parse_lock(lock_file(web).read_text()).images == {}


def test_a_monitor_that_cannot_run_just_now_keeps_its_digest(web: Rehearsal) -> None:
    web.apply(WEB)
    before = lock_file(web).read_text()
    with web.driver.edit() as world:
        world.monitors = []
    assert locked(web).images_changed == ()
    assert lock_file(web).read_text() == before
    assert serialise(parse_lock(before)) == before


def test_a_target_that_runs_programs_has_no_images(web: Rehearsal) -> None:
    made = web.apply(CHAT).plan
    assert made.next_images == {}
    assert made.locked_images == {}
    assert set(running(web).values()) == {None}
