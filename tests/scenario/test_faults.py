"""What enova does when something goes wrong around it: each test is one misfortune.

On two emulated replicas behind a real Envoy, watched by a real Prometheus. The tests bring the
stack up by themselves, so each of them can be run alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket

import httpx
import pytest

from enova.policy.healing import HANG_AFTER_S
from tests.scenario.conftest import settle
from tests.scenario.kinds import FEW
from tests.scenario.load import ANSWERED, BROKEN, REFUSED, Ask, Load, ask_all, ask_once
from tests.scenario.test_obligations import follow_the_load, nothing_failed
from tests.scenario.world import FAILED, INTERRUPTED, OK, Stack, step, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

SERVICE = FEW.first
COUNT = FEW.counts()[SERVICE]


def test_a_taken_port_is_named_with_its_owner_and_nothing_is_left(few: Stack) -> None:
    empty(few)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", few.spec["gateway"]["port"]))
        taken.listen()
        with step("apply exits with 1"):
            done = few.apply(expect=FAILED)
        with step("it names the port and who has it"):
            assert str(few.spec["gateway"]["port"]) in done.err, done
            assert str(os.getpid()) in done.err, done
        with step("no process is left"):
            assert few.processes() == []
    with step("once the port is free, apply succeeds"):
        few.apply()
        assert ask_once(few.url, Ask(SERVICE, FEW.tokens, stream=True)).kind == ANSWERED


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_an_interrupted_apply_is_finished_by_the_next(few: Stack, by: signal.Signals) -> None:
    empty(few)
    applying = few.start("apply", str(few.file), "--yes", "-o", "json")
    with step("apply is interrupted while the first replica starts"):
        assert applying.stdout is not None
        for line in applying.stdout:
            event = json.loads(line)
            if "wait-serving" in json.dumps(event):
                break
        applying.send_signal(by)
        applying.communicate(timeout=60)
    with step("it exits with 130, or is dead"):
        assert applying.returncode == (INTERRUPTED if by is signal.SIGINT else -signal.SIGKILL)
    with step("plan shows what is missing"):
        assert few.plan()["changes"] != []
    with step("apply again finishes it"):
        few.apply()
        assert len(few.in_rotation(SERVICE)) == COUNT
    with step("nothing was started twice"):
        assert len(few.instances(SERVICE)) == COUNT
        assert len(few.components("gateway")) == 1
        assert few.plan()["changes"] == []


def test_replicas_follow_the_load_on_signals_from_prometheus(few: Stack) -> None:
    settle(few)
    follow_the_load(few, FEW)


def test_a_hung_replica_is_replaced_also_by_a_reconciler_that_was_killed_meanwhile(
    few: Stack,
) -> None:
    settle(few)
    hung = sorted(few.in_rotation(SERVICE))[0]
    asks = [Ask(SERVICE, FEW.long_tokens, stream) for stream in (True, False) for _ in range(2)]
    # One replica carries this alone.
    with few.load(FEW.rate / 2, tokens=FEW.tokens) as load:
        load.more(5)
        with few.reconciling() as reconciler:

            def stop_it() -> None:
                until(
                    "both replicas work on long answers",
                    lambda: all(e.rq_active for e in few.seen_by_gateway(SERVICE).values()),
                    within_s=20,
                )
                os.kill(few.pids(hung)[1], signal.SIGSTOP)
                with step("a stopped process gets no new requests within 15 s"):
                    until(
                        "the gateway sends it nothing",
                        lambda: hung not in few.in_rotation(SERVICE),
                        within_s=15,
                    )
                with step("the reconciler sees that it does not answer"):
                    until(
                        "it is remembered",
                        lambda: hung in (few.state / "memory.json").read_text(),
                        within_s=30,
                    )
                reconciler.kill()
                with (
                    step("killed and started again, the reconciler replaces it all the same"),
                    few.reconciling(),
                ):
                    until(
                        "another one is in rotation in its place, and it is gone",
                        lambda: (
                            len(few.in_rotation(SERVICE)) == COUNT
                            and hung not in few.instances(SERVICE)
                        ),
                        within_s=90,
                    )

            replies = ask_all(few.url, asks, meanwhile=stop_it)
        load.more(5)
    served = few.served_by(reply.id for reply in (*replies, *load.replies))
    with step("only streams broke that it had begun to answer"):
        for reply in (*replies, *load.failures):
            if reply.failed:
                assert reply.kind == BROKEN, reply
                assert reply.ask.stream, reply
                assert reply.first_byte_s is not None, reply
                assert served[reply.id].instance == hung, (reply, served[reply.id])
    with step("nothing is left to do"):
        few.enova("diff", str(few.file), expect=OK)


@pytest.mark.timeout(300)
def test_an_engine_that_hangs_while_its_health_is_good_is_replaced(few: Stack) -> None:
    settle(few)
    hung = sorted(few.in_rotation(SERVICE))[0]
    meta = json.loads((few.state / "run" / "instances" / hung / "meta.json").read_text())
    engine = f"http://{meta['host']}:{meta['port']}"
    asks = [Ask(SERVICE, FEW.long_tokens, stream) for stream in (True, False) for _ in range(2)]
    begun = len(few.journal())

    def hang() -> None:
        until(
            "both replicas work on long answers",
            lambda: all(e.rq_active for e in few.seen_by_gateway(SERVICE).values()),
            within_s=20,
        )
        assert httpx.post(f"{engine}/emulator/faults", json={"hang": True}).json()["hang"]
        load.more(5)
        with step("its health is good, so it stays in rotation; the other one goes on answering"):
            assert httpx.get(f"{engine}/health").status_code == 200
            assert hung in few.in_rotation(SERVICE)
        with step(f"after {HANG_AFTER_S:.0f} s without a step it is replaced"):
            until(
                "another one is in rotation in its place, and it is gone",
                lambda: (
                    len(few.in_rotation(SERVICE)) >= COUNT and hung not in few.instances(SERVICE)
                ),
                within_s=HANG_AFTER_S + 60,
            )

    # Little enough for one replica, and for what waits on the hung one not to call for a third.
    with few.reconciling(), few.load(FEW.rate / 4, tokens=FEW.tokens) as load:
        replies = ask_all(few.url, asks, meanwhile=hang)
        load.more(10)
    journal = few.journal()[begun:]
    with step("the journal says why"):
        healed = [line for line in journal if line["kind"] == "heal"]
        assert [line for line in healed if "no engine step" in json.dumps(line["detail"])], healed
    with step("the new one was in rotation before the hung one was drained"):
        done = [line["detail"]["step"] for line in journal if line["kind"] == "action-done"]
        assert done.index("join") < done.index("drain"), done
    served = few.served_by(reply.id for reply in (*replies, *load.replies))
    with step("whatever did not get stuck on the hung one was answered"):
        assert [reply for reply in load.replies if not reply.failed]
        for reply in (*replies, *load.failures):
            if reply.failed:
                assert served[reply.id].instance == hung, (reply, served[reply.id])
    with step("nothing is left to do"):
        few.enova("diff", str(few.file), expect=OK)


def test_a_killed_gateway_comes_back_with_its_members(few: Stack) -> None:
    settle(few)
    before = few.in_rotation(SERVICE)
    engines = {instance: few.pids(instance) for instance in before}
    with few.reconciling(), few.load(FEW.rate, tokens=FEW.tokens) as load:
        load.more(5)
        (gateway,) = few.components("gateway")
        os.kill(few.pids(gateway)[1], signal.SIGKILL)
        with step("the reconciler starts the gateway again, with the members it had"):
            took = until("they serve", lambda: few.in_rotation(SERVICE) == before, within_s=20)
        back = load.sent
        load.more(15)
    print(f"            the gateway was away for {took:.1f} s")
    with step("the engines went on running"):
        assert {instance: few.pids(instance) for instance in before} == engines
    with step("what failed did so because there was no gateway, and nothing after it was back"):
        assert {reply.kind for reply in load.failures} <= {REFUSED, BROKEN}
        late = sorted(load.replies, key=lambda reply: reply.begun)[back + 1 :]
        assert late
        assert not [reply for reply in late if reply.failed]
    with step("nothing is left to do"):
        few.enova("diff", str(few.file), expect=OK)


def test_a_gateway_that_hangs_is_stopped_and_started_anew(few: Stack) -> None:
    settle(few)
    before = few.in_rotation(SERVICE)
    engines = {instance: few.pids(instance) for instance in before}
    (hung,) = few.components("gateway")
    os.kill(few.pids(hung)[1], signal.SIGSTOP)
    with few.reconciling(), step("it has not answered for a while: another one takes its place"):
        until(
            "a new gateway runs",
            lambda: few.components("gateway") not in ([], [hung]),
            within_s=120,
        )
        until("it has the same members", lambda: few.in_rotation(SERVICE) == before, within_s=30)
    with step("requests are answered, by the same engines"):
        assert ask_once(few.url, Ask(SERVICE, FEW.tokens, stream=True)).kind == ANSWERED
        assert {instance: few.pids(instance) for instance in before} == engines
    with step("nothing is left to do"):
        few.enova("diff", str(few.file), expect=OK)


def test_a_killed_prometheus_comes_back_and_scaling_never_goes_blind(few: Stack) -> None:
    settle(few)
    with few.reconciling() as reconciler, few.load(FEW.rate, tokens=FEW.tokens) as load:
        load.more(10)
        (prometheus,) = few.components("monitoring-prometheus")
        os.kill(few.pids(prometheus)[1], signal.SIGKILL)
        with step("the reconciler starts Prometheus again"):
            until(
                "another one runs",
                lambda: few.components("monitoring-prometheus") not in ([], [prometheus]),
                within_s=30,
            )
        load.more(10)
    nothing_failed(load)
    with step("no replica came or went because of it"):
        assert len(few.instances(SERVICE)) == COUNT
        assert not re.search(rf"{SERVICE}/replica/\d+  (start|drain)", reconciler.output)


def test_a_gateway_limit_changes_without_a_failed_request(few: Stack) -> None:
    settle(few)
    before = few.in_rotation(SERVICE)
    try:
        with few.load(FEW.rate, tokens=FEW.tokens) as load:
            load.more(10)
            with step("apply changes the gateway under load"):
                spec = few.changed(SERVICE)
                spec["gateway"]["limits"] = {"max_pending": 512}
                few.write(spec)
                few.apply()
            assert few.in_rotation(SERVICE) == before
            load.more(10)
            with step("and back"):
                few.enova("rollback", few.name, "--yes")
            load.more(10)
    finally:
        few.write(few.spec)
    nothing_failed(load)


def test_two_reconcilers_do_not_work_against_each_other(few: Stack) -> None:
    settle(few)
    victim = sorted(few.in_rotation(SERVICE))[0]
    with few.reconciling(), few.reconciling(), few.load(FEW.rate, tokens=FEW.tokens) as load:
        load.more(5)
        os.kill(few.pids(victim)[1], signal.SIGKILL)
        with step("a killed replica is replaced once"):
            until(
                "all replicas are back",
                lambda: len(few.in_rotation(SERVICE) - {victim}) == COUNT,
                within_s=30,
            )
        load.more(10)
        assert len(few.instances(SERVICE)) == COUNT
    own = few.served_by(reply.id for reply in load.failures)
    assert all(own[reply.id].instance == victim for reply in load.failures)


def empty(stack: Stack) -> None:
    """Nothing of the stack is there."""
    stack.write(stack.spec)
    stack.clean()
    assert stack.processes() == []


@pytest.mark.timeout(300)
def test_a_replica_killed_while_another_drains_is_replaced_before_that_ends(few: Stack) -> None:
    patient = {"engine": {"args": {"max-num-seqs": 8}}, "rollout": {"drain_timeout": "150s"}}
    with step("one replica more than is needed, and time to drain"):
        few.write(few.changed(SERVICE, **patient, scale={"min": COUNT + 1}))
        few.apply()
        few.write(few.changed(SERVICE, **patient))
        few.apply()
        assert len(few.in_rotation(SERVICE)) == COUNT + 1
    begun = len(few.journal())
    streams = [Ask(SERVICE, 8 * FEW.long_tokens, stream=True) for _ in range(2 * (COUNT + 1))]

    def kill_one() -> None:
        until(
            "every replica has open streams",
            lambda: all(e.rq_active for e in few.seen_by_gateway(SERVICE).values()),
            within_s=20,
        )
        with few.reconciling(), few.load(FEW.rate / 3, tokens=FEW.tokens) as load:
            loads.append(load)
            with step("the one too many drains"):
                until("one is draining", lambda: draining(few), within_s=60)
            (leaving,) = draining(few)
            victim = sorted(few.in_rotation(SERVICE))[0]
            gone.extend((leaving, victim))
            os.kill(few.pids(victim)[1], signal.SIGKILL)
            with step("a killed one is replaced, and the other drains on"):
                until(
                    "all replicas are back",
                    lambda: len(few.in_rotation(SERVICE) - {victim}) == COUNT,
                    within_s=60,
                )
                assert draining(few) == {leaving}
                assert few.seen_by_gateway(SERVICE)[leaving].rq_active
            with step("once its streams have ended it goes, and nothing more"):
                until("it is gone", lambda: leaving not in few.instances(SERVICE), within_s=120)
                assert len(few.in_rotation(SERVICE)) == len(few.instances(SERVICE)) == COUNT
            load.more(5)

    loads: list[Load] = []
    gone: list[str] = []
    try:
        replies = ask_all(few.url, streams, meanwhile=kill_one)
    finally:
        few.write(few.spec)
    leaving, victim = gone
    served = few.served_by(reply.id for reply in (*replies, *loads[0].replies))
    with step("only streams of the killed one broke"):
        for reply in (*replies, *loads[0].failures):
            if reply.failed:
                assert reply.kind == BROKEN, reply
                assert served[reply.id].instance == victim, (reply, served[reply.id])
        assert [r for r in replies if served[r.id].instance == leaving and not r.failed]
    with step("the journal has the new one joined before the old one was drained"):
        done = [
            (line["address"], line["detail"]["step"])
            for line in few.journal()[begun:]
            if line["kind"] == "action-done"
        ]
        assert done.index((address(victim), "join")) < done.index((address(leaving), "drain")), done


def draining(stack: Stack) -> set[str]:
    """Instances that get nothing new, in the gateway's own view."""
    return {e.instance_id for e in stack.seen_by_gateway(SERVICE).values() if e.draining}


def address(instance: str) -> str:
    """The slot of an instance, by its id."""
    service, kind, slot, _ = instance.split("-")
    return f"{service}/{kind}/{slot}"
