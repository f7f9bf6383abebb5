"""A saved plan binds: refused when its grounds moved, carried out when only counts did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from enova.base.errors import Refused
from enova.effects.execute import StopFlag
from enova.stack.document import plan_from_json, plan_to_json
from enova.stack.observed import State
from enova.workflows.apply import carry_out
from enova.workflows.loading import Source
from enova.workflows.lock import lock
from tests.workflows.rehearsal import CHAT, EMBED, Rehearsal, hosts

CHANGED = CHAT.replace("max-num-seqs: 32", "max-num-seqs: 64")


def save(web: Rehearsal, text: str, *, env: str = "", path: Path | None = None) -> Path:
    """Plan ``text`` and save the plan."""
    web.write(text)
    file = web.folder / "plan.json"
    file.write_text(plan_to_json(web.plan(env=env, path=path).plan))
    return file


def edit_the_spec(web: Rehearsal) -> None:
    web.write(CHANGED.replace("max: 6", "max: 5") + EMBED)


def edit_the_lock(web: Rehearsal) -> None:
    text = (web.folder / "enova.lock").read_text()
    (web.folder / "enova.lock").write_text(text.replace('"max_num_seqs": 16', '"max_num_seqs": 8'))


def apply_another(web: Rehearsal) -> None:
    text = web.spec.read_text()
    (web.folder / "enova.lock").rename(web.folder / "kept.lock")
    web.apply(CHAT.replace("max: 6", "max: 5") + EMBED)
    (web.folder / "kept.lock").rename(web.folder / "enova.lock")
    web.write(text)


def tamper_with_what_runs(web: Rehearsal) -> None:
    with web.driver.edit() as world:
        embed = next(i for i in world.instances.values() if i.address.startswith("embed"))
        embed.tampered.append("an argument")


@pytest.mark.parametrize(
    ("move", "says"),
    [
        (edit_the_spec, "changed since the plan was made"),
        (edit_the_lock, r"enova.lock changed"),
        (apply_another, "something else was applied"),
        (tamper_with_what_runs, "what runs changed"),
    ],
)
def test_refused_when_something_it_was_made_from_moved(
    web: Rehearsal, move: Callable[[Rehearsal], None], says: str
) -> None:
    web.apply(CHAT + EMBED)
    saved = save(web, CHANGED + EMBED)
    move(web)
    with pytest.raises(Refused, match=says):
        web.apply_saved(saved)
    assert web.fields() == {32, 16}, "nothing was touched"


def test_not_refused_after_the_reconciler_scaled_and_healed(web: Rehearsal) -> None:
    web.apply(CHAT)
    saved = save(web, CHANGED)
    web.signals.rates["chat"] = 10_000.0
    web.tick()
    with web.driver.edit() as world:
        next(iter(world.instances.values())).exit("killed by signal 9")
    web.tick()
    assert len(web.serving()) == 6
    assert web.apply_saved(saved).outcome.result == "succeeded"
    assert len(web.serving()) == 6, "the scaler's count stays"
    assert web.fields() == {64}
    assert web.plan().plan.is_empty


def test_not_refused_while_a_replica_is_down(web: Rehearsal) -> None:
    web.apply(CHAT)
    saved = save(web, CHANGED)
    with web.driver.edit() as world:
        next(iter(world.instances.values())).exit("killed by signal 9")
    assert web.apply_saved(saved).outcome.result == "succeeded"
    assert web.fields() == {64}


def test_not_refused_when_the_scaler_already_reached_the_new_bound(web: Rehearsal) -> None:
    web.apply(CHAT)
    saved = save(web, CHAT.replace("min: 2", "min: 4"))
    web.signals.rates["chat"] = 10_000.0
    web.tick()
    assert web.apply_saved(saved).outcome.result == "succeeded"


def test_a_plan_saved_before_there_is_a_lock_writes_it(web: Rehearsal) -> None:
    saved = save(web, CHAT)
    assert not (web.folder / "enova.lock").exists()
    web.apply_saved(saved)
    again = web.plan(locked=True)
    assert again.plan.is_empty
    assert again.chosen.sized == ()


def test_a_failed_apply_writes_no_lock_and_the_saved_plan_can_be_tried_again(
    web: Rehearsal,
) -> None:
    web.apply(CHAT)
    saved = save(web, CHANGED)
    before = (web.folder / "enova.lock").read_bytes()
    with web.driver.edit() as world:
        world.faults.fail_at.add(world.count + 2)
    assert web.apply_saved(saved).outcome.result == "failed"
    assert (web.folder / "enova.lock").read_bytes() == before
    assert web.apply_saved(saved).outcome.result == "succeeded"
    assert (web.folder / "enova.lock").read_bytes() != before


def test_a_lock_that_came_to_say_the_same_is_no_reason_to_refuse(web: Rehearsal) -> None:
    saved = save(web, CHAT)
    lock(Source(str(web.spec)), web.surroundings, upgrade=False, check=False)
    assert web.apply_saved(saved).outcome.result == "succeeded"
    with pytest.raises(Refused, match="was applied since"):
        web.apply_saved(saved)


def test_a_spec_edited_while_it_was_applied_is_not_locked(web: Rehearsal) -> None:
    web.write(CHAT)
    planned = web.plan()
    web.write(CHANGED)
    web.carry_out(planned.plan, planned.site)
    assert not (web.folder / "enova.lock").exists()


def test_a_plan_of_another_environment_goes_there(web: Rehearsal) -> None:
    (web.folder / "web.prod.enova.yaml").write_text("services: {chat: {scale: {min: 3}}}\n")
    saved = save(web, CHAT, env="prod")
    web.apply_saved(saved)
    assert (web.folder / "state" / "web.prod" / "record.json").exists()
    assert not web.state.record_file.exists()
    (web.folder / "web.prod.enova.yaml").write_text("services: {chat: {scale: {min: 4}}}\n")
    with pytest.raises(Refused, match="changed since"):
        web.apply_saved(saved)


def test_the_lock_of_another_environment_is_none_of_its_business(web: Rehearsal) -> None:
    (web.folder / "web.prod.enova.yaml").write_text("services: {chat: {scale: {min: 3}}}\n")
    saved = save(web, CHAT)
    lock(Source(str(web.spec), "prod"), web.surroundings, upgrade=False, check=False)
    assert web.apply_saved(saved).outcome.result == "succeeded"


def test_a_plan_of_a_folder_is_checked_too(web: Rehearsal) -> None:
    saved = save(web, CHAT, path=web.folder)
    web.write(CHANGED)
    with pytest.raises(Refused, match="changed since"):
        web.apply_saved(saved)


def test_a_plan_whose_spec_is_named_from_another_folder_is_refused(
    web: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(web.folder)
    saved = save(web, CHAT, path=Path("web.enova.yaml"))
    elsewhere = web.folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(Refused, match="not here"):
        web.apply_saved(saved)


def test_a_plan_made_where_nothing_was_applied_is_refused_where_something_is(
    web: Rehearsal, tmp_path: Path
) -> None:
    web.apply(CHAT)
    elsewhere = Rehearsal(tmp_path / "elsewhere", hosts(8))
    elsewhere.folder.mkdir()
    (elsewhere.folder / "enova.lock").write_bytes((web.folder / "enova.lock").read_bytes())
    made = plan_from_json(save(elsewhere, CHAT).read_text())
    with pytest.raises(Refused, match="stale"):
        web.carry_out(made, web.here())


def test_equal_inputs_give_equal_text_in_two_folders_of_two_users(tmp_path: Path) -> None:
    texts = []
    for user in ("alice", "bob"):
        folder = tmp_path / user
        folder.mkdir()
        one = Rehearsal(folder, hosts(8))
        one.write(CHAT + EMBED)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("USER", user)
            patch.setenv("LOGNAME", user)
            patch.setenv("HOME", str(folder))
            texts.append(plan_to_json(one.plan(path=Path("web.enova.yaml")).plan))
    assert texts[0] == texts[1]
    assert not any(word in texts[0] for word in ("alice", "bob", str(tmp_path)))


def test_a_stopped_apply_is_gone_on_with_by_the_next(web: Rehearsal) -> None:
    web.write(CHAT)
    planned = web.plan()
    here, stop = planned.site, StopFlag()
    applied = carry_out(
        planned.plan, here, emit=lambda _: stop.request(), stop=stop, command="test"
    )
    assert applied.outcome.result == "interrupted"
    assert web.state.read().document is None
    web.apply()
    assert {i.state for i in web.driver.observe().instances} == {State.SERVING}
    assert web.plan().plan.is_empty
