"""What enova promises, under load: on emulated engines by the dozen, real ones, and in containers.

Each test is one promise; the sentences of its steps are what it shows. Envoy is real in all of
them, and so is the command line.
"""

from __future__ import annotations

import json
import re
import socket
from functools import partial

import pytest

from tests.scenario.kinds import Kind
from tests.scenario.load import ANSWERED, BROKEN, Ask, Load, ask_all, ask_once
from tests.scenario.scaling import planned_rate
from tests.scenario.world import DIFFERENT, FAILED, OK, Reconciler, Stack, step, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]


def nothing_failed(load: Load) -> None:
    """Every request was answered, whole and as asked."""
    listed = "\n".join(str(reply) for reply in load.failures[:20])
    assert not load.failures, f"{load.summary()}\n{listed}"
    assert load.replies, "there was no load"


def test_1_a_spec_becomes_a_serving_stack(stack: Stack, kind: Kind) -> None:
    with step("plan shows every replica, the gateway, and why; it starts nothing"):
        planned = stack.plan()
        additions = [c for c in planned["changes"] if c["reason"] == "new"]
        assert len(additions) == sum(kind.counts().values()) + 1 + len(kind.monitors)
        assert not stack.running()
    with step("apply makes it so"):
        stack.apply()
    for service in stack.services:
        for stream in (True, False):
            with step(f"{service} answers through the gateway, {'' if stream else 'not '}streamed"):
                reply = ask_once(stack.url, Ask(service, kind.tokens, stream))
                assert reply.kind == ANSWERED, reply
    with step("every replica gets requests"):
        for service, count in kind.counts().items():
            assert len(stack.in_rotation(service)) == count
    with step("plan is empty now"):
        assert stack.plan()["changes"] == []
    with step("diff exits with 0"):
        stack.enova("diff", str(stack.file), expect=OK)
    with step("applying again does nothing"):
        before = stack.running()
        stack.apply()
        assert stack.running() == before


def test_2_a_change_rolls_out_and_back_without_a_failed_request(settled: Stack, kind: Kind) -> None:
    stack, service = settled, kind.first
    first = stack.in_rotation(service)
    others = {name: stack.in_rotation(name) for name in stack.services if name != service}
    try:
        with stack.load(kind.rate, tokens=kind.tokens) as load:
            load.more(10)
            with step("diff exits with 2 for a changed engine argument"):
                stack.write(stack.changed(service, engine={"args": kind.change}))
                stack.enova("diff", str(stack.file), expect=DIFFERENT)
            with step("apply replaces every replica of that service and no other"):
                stack.apply()
                second = stack.in_rotation(service)
                assert len(second) == len(first)
                assert not second & first
                assert {name: stack.in_rotation(name) for name in others} == others
            load.more(10)
            with step("rollback replaces them again, with what was applied before"):
                stack.enova("rollback", stack.name, "--yes", within_s=300)
                third = stack.in_rotation(service)
                assert len(third) == len(first)
                assert not third & second
            load.more(10)
        with step("no request failed"):
            nothing_failed(load)
    finally:
        stack.write(stack.spec)
    with step("what runs is the first spec again"):
        stack.enova("diff", str(stack.file), expect=OK)


def test_3_what_an_engine_refuses_changes_nothing(settled: Stack, kind: Kind) -> None:
    stack, service = settled, kind.first
    before = {name: stack.in_rotation(name) for name in stack.services}
    running = stack.running()
    try:
        with stack.load(kind.rate, tokens=kind.tokens) as load:
            load.more(5)
            with step("apply exits with 1 and names the engine's own reason"):
                stack.write(stack.changed(service, engine={"args": kind.refused}))
                done = stack.apply(expect=FAILED)
                assert kind.refused_because in done.err, done
            with step("the old replicas are all still serving, and nothing new is left"):
                assert {name: stack.in_rotation(name) for name in stack.services} == before
                assert stack.running() == running
            load.more(5)
        with step("no request failed"):
            nothing_failed(load)
    finally:
        stack.write(stack.spec)
    with step("the first spec is still what is applied"):
        stack.enova("diff", str(stack.file), expect=OK)


def test_4_killed_replicas_are_routed_around_and_replaced(settled: Stack, kind: Kind) -> None:
    stack, service = settled, kind.first
    count = kind.counts()[service]
    members = sorted(stack.in_rotation(service))
    victims = set(members[: kind.victims])
    shared = stack.shared_memory()
    # So many that the victims get some of each.
    many = max(6, count * 3 // 2)
    asks = [Ask(service, kind.long_tokens, stream) for stream in (True, False) for _ in range(many)]
    with (
        stack.reconciling() as reconciler,
        stack.load(kind.rate, tokens=kind.tokens) as load,
    ):
        load.more(10)

        def kill() -> None:
            until(
                "every replica works on long answers",
                lambda: all(e.rq_active >= 1 for e in stack.seen_by_gateway(service).values()),
                within_s=20,
            )
            for victim in victims:
                stack.kill(victim)
            with step(f"{kind.victims} of {count} killed with -9: out of rotation within 5 s"):
                until(
                    "the gateway sends them nothing",
                    lambda: not victims & stack.in_rotation(service),
                    within_s=5,
                )
            by = "Docker starts them again, or" if kind.started_again else "by the reconciler"
            with step(f"{by} they are replaced"):
                until("all replicas are back", all_are_back, within_s=kind.start_s)

        def back() -> set[str]:
            """Killed ones that serve again."""
            return victims & stack.in_rotation(service) if kind.started_again else set()

        def all_are_back() -> bool:
            serving = stack.in_rotation(service) - (victims - back())
            return len(serving) == len(stack.instances(service)) == count

        replies = ask_all(stack.url, asks, meanwhile=kill)
        load.more(10)
        with step("it says what it did"):
            # One that Docker starts again, too slowly, has not ended.
            reasons = {"failed before", *(("unhealthy",) if kind.started_again else ())}
            for victim in victims - back():
                address = victim.rpartition("-")[0].replace("-replica-", "/replica/")
                heals = [
                    line["detail"]["reason"]
                    for line in stack.journal()
                    if line["kind"] == "heal" and line["address"] == address
                ]
                assert heals[-1] in reasons, address
                until("it is printed", partial(printed, reconciler, address), within_s=5)
    served = stack.served_by(reply.id for reply in (*replies, *load.replies))
    with step("only streams broke, and only those that the killed ones were answering"):
        for reply in (*replies, *load.failures):
            if reply.failed:
                assert reply.kind == BROKEN, reply
                assert reply.ask.stream, reply
                assert served[reply.id].instance in victims, (reply, served[reply.id])
        assert any(reply.failed for reply in replies), "no stream was open on the victims"
    with step("requests that were not streamed were answered by others"):
        whole = [reply for reply in replies if not reply.ask.stream]
        assert all(reply.kind == ANSWERED for reply in whole)
        asked = (*whole, *(reply for reply in load.replies if not reply.ask.stream))
        assert any(served[reply.id].retries for reply in asked), "none was on a victim"
    with step("no shared memory of the killed is left"):
        assert not {path for path in shared if path.exists()} - stack.shared_memory()
    with step("nothing is left to do"):
        stack.enova("diff", str(stack.file), expect=OK)


def printed(reconciler: Reconciler, address: str) -> bool:
    """Whether it has told of a new replica at this address."""
    return f"{address}  start-replica: done" in reconciler.output


def test_5_replicas_follow_the_load_without_a_failed_request(settled: Stack, kind: Kind) -> None:
    follow_the_load(settled, kind)


def follow_the_load(stack: Stack, kind: Kind) -> None:
    """Load up, load down, under a running reconciler."""
    service = kind.first
    least = kind.counts()[service]
    planned = planned_rate(stack, service, least)
    # The rate is a mean over half a minute: from 0.8 to 1.3 takes some 12 s to be seen.
    usual, high, low = planned * 0.8, planned * 1.3, planned * 0.3
    begun = len(stack.journal())
    with (
        stack.reconciling() as reconciler,
        stack.load(usual, tokens=kind.tokens, services=(service,)) as load,
    ):
        load.more(10)
        with step(f"{usual:.1f} requests/s: {least} replicas stay"):
            until(
                "the reconciler has seen this rate for a while",
                lambda: seen_rate(reconciler, service) > usual * 0.9,
                within_s=60,
            )
            assert len(stack.instances(service)) == least
        source = "prometheus" if "prometheus" in kind.monitors else "scrape"
        with step(f"status shows the arrivals, from {source}"):

            def arrivals() -> bool:
                shown = json.loads(stack.enova("status", stack.name, "-o", "json").out)
                signals = shown["signals"][service]
                # A Prometheus that has just begun knows no rate yet: scraping answers for it.
                return signals["source"] == source and (signals["arrival_rate"] or 0) > 0

            until(f"{source} answers with a rate", arrivals, within_s=60)
        load.rate = high
        with step(f"{high:.1f} requests/s: the reconciler adds a replica"):
            until(
                "one more serves",
                lambda: len(stack.in_rotation(service)) > least,
                within_s=60 + kind.start_s,
            )
        load.rate = low
        with step(f"{low:.1f} requests/s: it drains and removes what is too much"):
            until(
                f"{least} are left, and no more are wanted",
                lambda: (
                    len(stack.instances(service)) == least
                    and seen_rate(reconciler, service) < usual * 0.9
                ),
                within_s=120,
            )
        load.more(10)
    with step("no request failed"):
        nothing_failed(load)
    journal = stack.journal()[begun:]
    with step("each removed replica was drained, left the gateway and only then stopped"):
        steps: dict[str, list[str]] = {}
        for line in journal:
            if line["kind"] == "action-done":
                steps.setdefault(line["address"], []).append(line["detail"]["step"])
        assert steps
        comes_and_goes = ["start-replica", "wait-serving", "join", "drain", "leave", "stop-replica"]
        for done in steps.values():
            assert done[:6] == comes_and_goes, done
    with step("the journal says why, with the numbers it was decided on"):
        decided = [line["detail"] for line in journal if line["kind"] == "decision"]
        assert decided[0]["replicas"] > least
        # By the mean of 30 s, or that of 10 s where that shows a jump before.
        rates = (decided[0]["inputs"].get(f"{mean}arrival_rate", 0.0) for mean in ("", "recent_"))
        assert max(rates) > usual
        assert decided[-1]["replicas"] == least
        assert decided[-1]["inputs"]["arrival_rate"] < high


def seen_rate(reconciler: Reconciler, service: str) -> float:
    """Requests/s that the reconciler saw at its last look, 0 before it knows any."""
    found = re.findall(rf"{service}  \d+ replicas: ([\d.]+) requests/s", reconciler.output)
    return float(found[-1]) if found else 0.0


def test_6_destroy_leaves_nothing_but_the_journal(settled: Stack, kind: Kind) -> None:
    stack = settled
    ports = stack.ports()
    assert stack.spec["gateway"]["port"] in ports
    shared = stack.shared_memory()
    with step("destroy succeeds"):
        stack.enova("destroy", stack.name, "--yes")
    with step("nothing of it is left"):
        assert stack.left() == []
    with step("no port is left"):
        for port in sorted(ports):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
    with step("no file is left but the journal"):
        files = {p.name for p in stack.state.rglob("*") if not p.is_dir()}
        assert files - {"journal.jsonl"} == set(), files
    with step("no shared memory is left"):
        assert not [path for path in shared if path.exists()]
    with step("destroying again is harmless"):
        stack.enova("destroy", str(stack.file), "--yes")
