"""Scraping: right numbers from pages, and no number when the world is silent, slow or broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from enova.effects.sources.base import GatewayTarget, ServiceTargets
from enova.effects.sources.scrape import ScrapeSource, Windows
from enova.policy.signals import Signals
from tests.effects.pages_server import Pages, serving


@dataclass
class Engine:
    """What one stand-in engine's page says."""

    running: str = "1"
    waiting: str = "0"
    kv: str = "0.25"
    steps: float = 10
    tokens: float = 0
    first_tokens: dict[str, float] = field(
        default_factory=lambda: {"0.1": 0, "0.5": 0, "1.0": 0, "+Inf": 0}
    )

    def page(self, path: str, query: dict[str, list[str]]) -> tuple[int, str]:
        own = 'engine="0",model_name="tiny"'
        lines = [
            f"vllm:num_requests_running{{{own}}} {self.running}",
            f"vllm:num_requests_waiting{{{own}}} {self.waiting}",
            f"vllm:kv_cache_usage_perc{{{own}}} {self.kv}",
            f"vllm:iteration_tokens_total_count{{{own}}} {self.steps}",
            f"vllm:prompt_tokens_total{{{own}}} {2 * self.tokens}",
            f"vllm:generation_tokens_total{{{own}}} {self.tokens}",
        ]
        lines += [
            f'vllm:time_to_first_token_seconds_bucket{{{own},le="{edge}"}} {count}'
            for edge, count in self.first_tokens.items()
        ]
        return 200, "\n".join(lines) + "\n"


@dataclass
class Envoy:
    """What the stand-in gateway's page says."""

    sent: float = 0
    retries: float = 0
    refused: float = 0
    done: float = 0
    failed: float = 0

    def page(self, path: str, query: dict[str, list[str]]) -> tuple[int, str]:
        values = {
            "rq_total": self.sent,
            "cx_none_healthy": self.refused,
            "rq_pending_overflow": 0,
            "rq_pending_failure_eject": 0,
            "rq_cancelled": 0,
            "rq_retry": self.retries,
            "rq_completed": self.done,
        }
        lines = [
            f'envoy_cluster_upstream_{name}{{envoy_cluster_name="chat"}} {value}'
            for name, value in values.items()
        ]
        if self.failed:
            lines.append(
                'envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",'
                f'envoy_cluster_name="chat"}} {self.failed}'
            )
        return 200, "\n".join(lines) + "\n"


class World:
    """Two engines and a gateway, and a source that looks every ten seconds of its own time."""

    def __init__(self, stack: ExitStack, ring: Path | None = None) -> None:
        self.engines = [Engine(), Engine()]
        self.envoy = Envoy()
        self.servers = [stack.enter_context(serving(e.page)) for e in self.engines]
        self.gateway: Pages = stack.enter_context(serving(self.envoy.page))
        self.ring = ring
        self.source = self.new_source()
        self.now = 1_000.0

    def new_source(self) -> ScrapeSource:
        return ScrapeSource(self.ring, windows=Windows(timeout_s=0.5))

    def target(self) -> ServiceTargets:
        pairs = tuple((f"r{i}", server.endpoint) for i, server in enumerate(self.servers))
        return ServiceTargets("chat", pairs, "vllm", "0.32.0")

    def look(self, after: float = 10.0, *, gateway: bool = True) -> Signals:
        self.now += after
        where = GatewayTarget(self.gateway.endpoint) if gateway else None
        return self.source.read([self.target()], now=self.now, gateway=where)["chat"]

    def watch(self, after: float = 10.0) -> None:
        self.now += after
        where = GatewayTarget(self.gateway.endpoint)
        self.source.watch([self.target()], now=self.now, gateway=where)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, tmp_path / "samples.json")


def test_the_first_look_knows_gauges_and_no_rates(world: World) -> None:
    seen = world.look()
    assert (seen.running, seen.waiting, seen.kv_usage) == (2, 0, 0.25)
    assert (seen.arrival_rate, seen.ttft_p95, seen.generation_tokens_rate) == (None, None, None)
    assert seen.replicas["r0"].steps == 10
    assert seen.notes == ("gateway: too few samples for a rate yet",)
    assert seen.source == "scrape"


def test_arrivals_are_first_attempts_and_those_nobody_could_take(world: World) -> None:
    world.look()
    world.envoy.sent += 70
    world.envoy.retries += 20
    world.envoy.refused += 30
    seen = world.look()
    assert seen.arrival_rate == 8.0
    assert seen.notes == ()


def test_open_requests_count_as_arrivals_and_not_yet_as_answers(world: World) -> None:
    world.look()
    world.envoy.sent += 50
    seen = world.look()
    assert seen.arrival_rate == 5.0
    assert seen.success_rate is None


def test_the_share_of_success_is_of_final_answers(world: World) -> None:
    world.look()
    world.envoy.done += 40
    assert world.look().success_rate == 1.0
    world.envoy.done += 40
    world.envoy.failed += 8
    assert world.look().success_rate == pytest.approx(0.9)


def test_quantiles_and_token_rates_are_of_the_window_and_of_all_replicas(world: World) -> None:
    for engine in world.engines:
        engine.first_tokens = dict.fromkeys(engine.first_tokens, 1000.0)
    world.look()
    for engine in world.engines:
        engine.tokens += 100
        engine.first_tokens = {"0.1": 1000, "0.5": 1005, "1.0": 1010, "+Inf": 1010}
    seen = world.look()
    assert seen.ttft_p95 == pytest.approx(0.95)
    assert seen.generation_tokens_rate == 20
    assert seen.prompt_tokens_rate == 40


def test_another_process_computes_rates_from_the_look_before(world: World) -> None:
    world.look()
    world.source = world.new_source()
    world.envoy.sent += 300
    assert world.look(after=300).arrival_rate == 1.0


def test_an_engine_that_does_not_answer_leaves_sums_unknown(world: World) -> None:
    world.look()
    world.servers[1].answer = lambda path, query: (500, "")
    world.engines[0].first_tokens = dict.fromkeys(world.engines[0].first_tokens, 9.0)
    seen = world.look()
    assert (seen.running, seen.waiting, seen.kv_usage, seen.ttft_p95) == (None,) * 4
    assert seen.generation_tokens_rate is None
    assert seen.replicas["r0"].running == 1
    assert seen.replicas["r1"].answered is False
    assert seen.replicas["r1"].steps is None
    assert seen.arrival_rate == 0, "the gateway answers for itself"
    assert "r1" in seen.notes[0]
    world.servers[1].answer = world.engines[1].page
    assert world.look().running == 2


def test_a_number_that_is_not_one_is_unknown(world: World) -> None:
    world.engines[0].running = "NaN"
    seen = world.look()
    assert seen.running is None
    assert seen.waiting == 0


@pytest.mark.parametrize("page", ["<html>no</html>", "vllm:num_requests_running{ oops", "\x00"])
def test_a_page_that_is_none_costs_its_own_numbers_only(world: World, page: str) -> None:
    world.servers[0].answer = lambda path, query: (200, page)
    seen = world.look()
    assert seen.running is None
    assert seen.replicas["r1"].running == 1


def test_a_page_that_drips_is_cut_at_the_limit(world: World) -> None:
    world.servers[0].drip = True
    seen = world.look()
    assert seen.replicas["r0"].answered is False
    assert "in time" in seen.notes[0]
    assert seen.replicas["r1"].running == 1


def test_a_restarted_gateway_has_no_rate_across_the_restart(world: World) -> None:
    """There was none for a while: a mean over that time would be too low."""
    world.envoy.sent = 5000
    world.look()
    world.envoy.sent = 20
    seen = world.look()
    assert seen.arrival_rate is None
    assert seen.notes == ("gateway: too few samples for a rate yet",)
    assert seen.seconds_since_arrival == 0
    world.envoy.sent += 100
    assert world.look().arrival_rate == 10.0


def test_the_next_gateway_process_has_no_rate_across_the_restart(world: World) -> None:
    """Even when its counters have already passed those of the one before."""
    world.envoy.sent = 5
    world.look()
    envoy = Envoy(sent=40)
    with serving(envoy.page) as other:
        world.gateway = other
        seen = world.look()
        assert seen.arrival_rate is None
        assert seen.seconds_since_arrival == 0
        envoy.sent += 50
        assert world.look().arrival_rate == 5.0


def test_a_source_that_only_watched_knows_the_rate_at_its_first_look(world: World) -> None:
    for _ in range(6):
        world.watch(after=5.0)
        world.envoy.sent += 50
    asked = [len(server.asked) for server in world.servers]
    assert asked == [0, 0], "the gateway's page is enough"
    seen = world.look(after=5.0)
    assert (seen.arrival_rate, seen.recent_arrival_rate) == (10.0, 10.0)
    assert seen.running == 2
    assert seen.notes == ()


def test_the_recent_rate_is_of_the_last_looks(world: World) -> None:
    for sent in (0, 10, 10, 10, 10, 40, 60):
        world.envoy.sent += sent
        seen = world.look(after=5.0)
    assert (seen.arrival_rate, seen.window_s) == (pytest.approx(140 / 30), 30)
    assert (seen.recent_arrival_rate, seen.recent_s) == (10.0, 10.0)
    world.envoy.sent += 100
    seen = world.look(after=300.0)
    assert seen.arrival_rate is not None
    assert (seen.recent_arrival_rate, seen.recent_s) == (None, 0.0), "looks are too rare for it"


@pytest.mark.parametrize("how", ["none", "error", "empty", "drip", "gone"])
def test_without_the_gateway_the_arrival_rate_is_unknown(world: World, how: str) -> None:
    world.look()
    world.envoy.sent += 50
    world.look()
    world.gateway.drip = how == "drip"
    answers = {"error": (503, ""), "empty": (200, "")}
    if how in answers:
        world.gateway.answer = lambda path, query: answers[how]
    if how == "gone":
        world.gateway.endpoint = "127.0.0.1:1"
    seen = world.look(gateway=how != "none")
    assert seen.arrival_rate is None
    assert seen.success_rate is None
    assert seen.seconds_since_arrival is None
    assert seen.running == 2
    assert any(note.startswith("gateway: ") for note in seen.notes)


def test_idle_time_is_since_the_last_arrival_that_was_seen(world: World) -> None:
    assert world.look().seconds_since_arrival == 0
    assert world.look().seconds_since_arrival == 10
    world.envoy.sent += 1
    assert world.look().seconds_since_arrival == 0
    assert world.look(after=25).seconds_since_arrival == 25


def test_a_service_without_engines_has_no_queue(world: World) -> None:
    world.servers = []
    world.look()
    world.envoy.refused += 10
    seen = world.look()
    assert (seen.running, seen.waiting, seen.kv_usage) == (0, 0, None)
    assert seen.arrival_rate == 1.0


def test_an_unknown_engine_is_said_and_not_guessed(world: World) -> None:
    pair = ("r0", world.servers[0].endpoint)
    target = ServiceTargets("chat", (pair,), "nobody", "1")
    seen = world.source.read([target], now=world.now)["chat"]
    assert seen.running is None
    assert any("nobody" in note for note in seen.notes)


def test_a_disk_that_refuses_costs_no_signal(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    world.ring = tmp_path / "file" / "samples.json"
    world.source = world.new_source()
    seen = world.look()
    assert seen.running == 2
    assert any("not kept" in note for note in seen.notes)
