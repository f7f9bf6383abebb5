"""Prometheus down, slow, half blind or saying NaN: nothing is known then, nothing invented."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import pytest

from enova.effects.sources.base import FirstAnswering, GatewayTarget, ServiceTargets
from enova.effects.sources.prometheus import Asking, PrometheusSource, asking_every
from enova.policy.signals import ReplicaSignals, Signals
from tests.effects.pages_server import Pages, serving

TARGET = ServiceTargets("chat", (("r0", "127.0.0.1:1"), ("r1", "127.0.0.1:2")), "vllm", "0.32.0")


class Recorded:
    """Answers queries by what they ask for."""

    def __init__(self) -> None:
        replica = ({"service": "chat", "instance": "r0"}, {"service": "chat", "instance": "r1"})
        self.values: dict[str, list[tuple[Mapping[str, str], str]]] = {
            "time() - max by (envoy_cluster_name) (timestamp": [
                ({"envoy_cluster_name": "chat"}, "1.5")
            ],
            "clamp_min": [({"envoy_cluster_name": "chat"}, "12.5")],
            "offset 10s": [({"envoy_cluster_name": "chat"}, "20")],
            "1 - (": [({"envoy_cluster_name": "chat"}, "0.99")],
            "label_replace": [({"envoy_cluster_name": "chat"}, "4")],
            "num_requests_running": [(labels, "3") for labels in replica],
            "num_requests_waiting": [(labels, "1") for labels in replica],
            "kv_cache_usage": [(labels, "0.5") for labels in replica],
            "iteration_tokens_total_count": [(labels, "99") for labels in replica],
            "time_to_first_token": [({"service": "chat"}, "0.4")],
            "inter_token": [({"service": "chat"}, "0.02")],
            "e2e_request": [({"service": "chat"}, "NaN")],
            "prompt_tokens": [({"service": "chat"}, "100")],
            "generation_tokens": [({"service": "chat"}, "50")],
        }

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, str]:
        (asked,) = query["query"]
        found = max((key for key in self.values if key in asked), key=len)
        result = [
            {"metric": dict(labels), "value": [0, value]} for labels, value in self.values[found]
        ]
        return 200, json.dumps({"status": "success", "data": {"result": result}})


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def server(recorded: Recorded) -> Iterator[Pages]:
    with serving(recorded.answer) as pages:
        yield pages


def read(server: Pages) -> Signals:
    source = PrometheusSource(
        f"http://{server.endpoint}", asking=Asking(timeout_s=0.3, deadline_s=0.6)
    )
    return source.read([TARGET], now=100.0)["chat"]


def nothing_known(seen: Signals) -> bool:
    numbers = (
        seen.arrival_rate,
        seen.recent_arrival_rate,
        seen.success_rate,
        seen.running,
        seen.waiting,
        seen.kv_usage,
        seen.ttft_p95,
        seen.itl_p95,
        seen.e2e_p95,
        seen.prompt_tokens_rate,
        seen.generation_tokens_rate,
        seen.seconds_since_arrival,
        *(r.running for r in seen.replicas.values()),
    )
    return all(number is None for number in numbers)


def test_all_signals_are_read(server: Pages) -> None:
    seen = read(server)
    assert (seen.arrival_rate, seen.success_rate, seen.seconds_since_arrival) == (12.5, 0.99, 4)
    assert (seen.recent_arrival_rate, seen.recent_s) == (20, 10)
    assert (seen.running, seen.waiting, seen.kv_usage) == (6, 2, 0.5)
    assert (seen.ttft_p95, seen.itl_p95) == (0.4, 0.02)
    assert (seen.prompt_tokens_rate, seen.generation_tokens_rate) == (100, 50)
    assert seen.replicas["r1"] == ReplicaSignals(3, 1, 0.5, 99, answered=True)
    assert seen.notes == ()
    assert seen.source == "prometheus"


def test_not_a_number_is_not_known(server: Pages) -> None:
    assert read(server).e2e_p95 is None


def test_one_replica_missing_leaves_sums_and_quantiles_unknown(
    server: Pages, recorded: Recorded
) -> None:
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage"):
        recorded.values[name] = recorded.values[name][:1]
    seen = read(server)
    assert (seen.running, seen.waiting, seen.kv_usage, seen.ttft_p95) == (None,) * 4
    assert seen.generation_tokens_rate is None
    assert seen.replicas["r0"].running == 3
    assert seen.replicas["r1"].answered is False
    assert seen.arrival_rate == 12.5
    assert seen.notes == ("no fresh numbers of r1",)


@pytest.mark.parametrize("age", ["16", "NaN", None])
def test_a_gateway_not_read_lately_has_no_rate(
    server: Pages, recorded: Recorded, age: str | None
) -> None:
    labels = {"envoy_cluster_name": "chat"}
    recorded.values["time() - max by (envoy_cluster_name) (timestamp"] = (
        [] if age is None else [(labels, age)]
    )
    seen = read(server)
    assert (seen.arrival_rate, seen.success_rate, seen.seconds_since_arrival) == (None,) * 3
    assert seen.notes == ("gateway: no fresh numbers",)


def test_a_gateway_watched_for_less_than_a_window_has_no_rate_and_says_so(
    server: Pages, recorded: Recorded
) -> None:
    recorded.values["clamp_min"] = []
    seen = read(server)
    assert seen.arrival_rate is None
    assert seen.notes == ("gateway: too few samples for a rate yet",)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, ""),
        (503, "starting"),
        (422, json.dumps({"status": "error", "error": "query timed out"})),
        (200, "<html>"),
        (200, "{}"),
        (200, json.dumps({"data": {"result": [{"metric": {}, "value": []}]}})),
        (200, json.dumps({"data": {"result": [{"metric": {}, "value": [0, "soon"]}]}})),
    ],
)
def test_an_answer_that_is_none_leaves_everything_unknown(
    server: Pages, status: int, body: str
) -> None:
    server.answer = lambda path, query: (status, body)
    seen = read(server)
    assert nothing_known(seen)
    assert seen.notes
    assert seen.notes[0].startswith("prometheus at ")
    assert len(server.asked) == 1, "one bad answer ends the look: no retries, no other queries"


def test_a_failure_in_the_middle_leaves_no_half_picture(server: Pages, recorded: Recorded) -> None:
    def half(path: str, query: dict[str, list[str]]) -> tuple[int, str]:
        return recorded.answer(path, query) if len(server.asked) < 6 else (500, "")

    server.answer = half
    assert nothing_known(read(server))


def test_a_prometheus_that_is_down_or_hangs_is_said(server: Pages) -> None:
    server.drip = True
    assert nothing_known(read(server))
    server.endpoint = "127.0.0.1:1"
    seen = read(server)
    assert nothing_known(seen)
    assert "did not answer" in seen.notes[0]


def test_a_slow_prometheus_is_left_at_the_deadline(server: Pages, recorded: Recorded) -> None:
    def slow(path: str, query: dict[str, list[str]]) -> tuple[int, str]:
        server.released.wait(0.2)
        return recorded.answer(path, query)

    server.answer = slow
    assert nothing_known(read(server))
    assert len(server.asked) <= 4


def test_a_window_holds_several_scrapes_of_any_prometheus() -> None:
    assert asking_every(5) == Asking(window_s=30, recent_s=10, stale_s=15)
    assert asking_every(15) == Asking(window_s=60, recent_s=30, stale_s=37.5)
    assert asking_every(30) == Asking(window_s=120, recent_s=60, stale_s=75)


@pytest.mark.parametrize("every_s", [0.5, 1, 2, 3, 4, 5, 7, 10, 12, 15, 20])
def test_the_recent_readings_are_whole_intervals_apart(every_s: float) -> None:
    recent_s = asking_every(every_s).recent_s
    assert recent_s >= 10
    assert recent_s / every_s == int(recent_s / every_s) >= 2
    assert recent_s <= asking_every(every_s).window_s


class Fixed:
    """A source with a prepared answer."""

    def __init__(self, name: str, answers: Mapping[str, Signals]) -> None:
        self.name = name
        self.answers = answers
        self.asked: list[str] = []
        self.watched: list[str] = []

    def read(
        self,
        targets: Sequence[ServiceTargets],
        *,
        now: float,
        gateway: GatewayTarget | None = None,
    ) -> Mapping[str, Signals]:
        self.asked += [target.service for target in targets]
        return {t.service: self.answers[t.service] for t in targets if t.service in self.answers}

    def watch(
        self,
        targets: Sequence[ServiceTargets],
        *,
        now: float,
        gateway: GatewayTarget | None = None,
    ) -> None:
        self.watched += [target.service for target in targets]


def signals(source: str, rate: float | None, *, answered: int = 0) -> Signals:
    replicas = {f"r{i}": ReplicaSignals(answered=True) for i in range(answered)}
    return Signals(1.0, 30.0, rate, replicas=replicas, source=source, notes=(f"{source} noted",))


CHAT, CODE = ServiceTargets("chat", (), "vllm"), ServiceTargets("code", (), "vllm")


def test_the_second_source_answers_only_what_the_first_does_not_know() -> None:
    first = Fixed("a", {"chat": signals("a", 1.0), "code": signals("a", None)})
    second = Fixed("b", {"chat": signals("b", 9.0), "code": signals("b", 2.0)})
    found = FirstAnswering([first, second]).read([CHAT, CODE], now=1.0)
    assert second.watched == []
    assert (found["chat"].source, found["code"].source) == ("a", "b")
    assert found["code"].notes == ("a noted", "b noted"), "the fallback shows"


def test_the_second_source_watches_while_the_first_knows_all() -> None:
    first = Fixed("a", {"chat": signals("a", 1.0), "code": signals("a", 1.0)})
    second = Fixed("b", {})
    found = FirstAnswering([first, second]).read([CHAT, CODE], now=1.0)
    assert (second.asked, second.watched) == ([], ["chat", "code"])
    assert found["chat"].notes == ("a noted",)


def test_when_nobody_knows_the_rate_the_most_replicas_count_and_no_number_is_made() -> None:
    first = Fixed("a", {"chat": signals("a", None, answered=1)})
    second = Fixed("b", {"chat": signals("b", None, answered=2)})
    found = FirstAnswering([first, second]).read([CHAT, CODE], now=1.0)
    assert found["chat"].source == "b"
    assert found["chat"].arrival_rate is None
    assert nothing_known(found["code"]), "a service no source knows is there, without numbers"
