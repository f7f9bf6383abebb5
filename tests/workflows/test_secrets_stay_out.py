"""A canary in the place of each secret appears in nothing that a whole run writes or says."""

from __future__ import annotations

from dataclasses import replace

from enova.base.digest import canonical, plain
from enova.effects.execute import StopFlag
from enova.stack.document import plan_to_json
from enova.stack.events import Event
from enova.workflows.apply import carry_out
from tests.workflows.rehearsal import CHAT, Rehearsal

KEY, TOKEN, FILED = "canary-key-5f1c", "canary-token-77aa", "canary-file-9c3e"


def test_no_secret_is_written_or_told(web: Rehearsal) -> None:
    outside = web.folder / "secret"
    outside.write_text(FILED)
    web.surroundings = replace(
        web.surroundings,
        environment={**web.surroundings.environment, "GATEWAY_KEY": KEY, "HF_TOKEN": TOKEN},
    )
    env = "env: {HF_TOKEN: {env: HF_TOKEN}, OTHER: {file: ./secret}}, args"
    keys = "gateway: {api_keys: [{name: team, secret: {env: GATEWAY_KEY}}]}\n"
    web.write(CHAT.replace("args", env, 1) + keys)
    told: list[Event] = []
    planned = web.plan()
    texts = [plan_to_json(planned.plan)]
    texts += [line.line() for line in planned.plan.actions]
    carry_out(planned.plan, planned.site, emit=told.append, stop=StopFlag(), command="test")
    with web.driver.edit() as world:
        next(iter(world.instances.values())).exit("killed by signal 9")
    web.signals.rates["chat"] = 10_000.0
    web.tick()
    web.apply(CHAT.replace("args", env, 1).replace("32", "64") + keys)
    web.rollback()
    texts += [canonical(plain(event)) for event in told]
    texts += [canonical(web.driver.to_world())]
    written = [p for p in web.folder.rglob("*") if p.is_file() and p != outside]
    assert any(p.name == "record.json" for p in written)
    assert any(p.name == "enova.lock" for p in written)
    texts += [p.read_text() for p in written]
    for secret in (KEY, TOKEN, FILED):
        assert not [text for text in texts if secret in text]
    assert any("GATEWAY_KEY" in text for text in texts), "the reference is there"
