"""The engine on a wall clock that the test moves: pace, faults, limits, counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enova.capacity.perf.point import LinearStepTime
from enova.capacity.sim.replica import ReplicaLimits
from enova.services.emulator.engine import Engine, Job
from enova.services.emulator.meter import Meter
from enova.services.emulator.pace import Clock

STEP = LinearStepTime(base=0.1, per_prefill_token=0.0, per_decode=0.0, per_context_token=0.0)


class World:
    """An engine, its wall clock, and what came out when."""

    def __init__(self, *, scale: float = 1.0, **limits: int) -> None:
        self.wall = 100.0
        self.out: list[tuple[float, int, int, str]] = []
        self.meter = Meter(model_name="m", max_model_len=64, buckets={})
        values = {
            "max_num_seqs": 8,
            "max_num_batched_tokens": 512,
            "max_model_len": 64,
            "kv_blocks": 100,
        } | limits
        self.clock = Clock(lambda: self.wall, scale)
        self.engine = Engine(STEP, ReplicaLimits(**values), self.clock, self.meter)

    def submit(self, *, prompt: int = 4, output: int = 3, prefix: tuple[int, ...] = ()) -> int:
        job_id = self.engine.new_id()
        job = Job(
            job_id,
            Recorder(self, job_id),
            prompt_tokens=prompt,
            output_tokens=output,
            max_tokens=output,
            reason="length",
        )
        self.engine.submit(job, prefix)
        return job_id

    def run_until(self, wall: float) -> None:
        while (due := self.engine.next_due()) is not None and due <= wall:
            self.wall = max(self.wall, due)
            self.engine.advance()
        self.wall = wall

    def times(self, job_id: int) -> list[float]:
        return [round(at - 100.0, 6) for at, job, tokens, _ in self.out if job == job_id and tokens]

    def reasons(self) -> dict[int, str]:
        return {job: reason for _, job, _, reason in self.out if reason}


class Recorder:
    def __init__(self, world: World, job_id: int) -> None:
        self._world = world
        self._job_id = job_id

    def emit(self, count: int) -> None:
        self._world.out.append((self._world.wall, self._job_id, count, ""))

    def finish(self, count: int, reason: str) -> None:
        self._world.out.append((self._world.wall, self._job_id, count, reason))


def test_tokens_come_one_step_apart_and_the_last_one_ends_the_answer() -> None:
    world = World()
    job = world.submit(output=3)
    world.run_until(200.0)
    assert world.times(job) == [0.1, 0.2, 0.3]
    assert world.reasons() == {job: "length"}
    assert world.engine.unfinished == 0
    assert world.engine.next_due() is None


def test_a_time_scale_of_10_is_ten_times_faster() -> None:
    world = World(scale=10.0)
    job = world.submit(output=2)
    world.run_until(200.0)
    assert world.times(job) == [0.01, 0.02]


def test_a_late_wake_up_catches_up_and_does_not_shift_what_follows() -> None:
    world = World()
    job = world.submit(output=5)
    world.wall = 100.35
    world.engine.advance()
    assert world.times(job) == [0.35, 0.35, 0.35]
    assert world.engine.next_due() == pytest.approx(100.4)


def test_hanging_stops_everything_and_going_on_loses_nothing() -> None:
    world = World()
    job = world.submit(output=3)
    world.run_until(100.15)
    world.engine.hang()
    late = world.submit(output=1)
    assert world.engine.next_due() is None
    world.run_until(105.15)
    assert world.times(job) == [0.1]
    world.engine.go_on()
    world.run_until(200.0)
    assert world.times(job) == [0.1, 5.2, 5.3]
    assert world.times(late) == [5.3]


def test_slow_counts_from_the_next_step_on() -> None:
    world = World()
    job = world.submit(output=3)
    world.engine.slow_down(4.0)
    world.run_until(200.0)
    assert world.times(job) == [0.1, 0.5, 0.9]


def test_beyond_max_num_seqs_jobs_wait_and_their_queue_time_is_counted() -> None:
    world = World(max_num_seqs=2)
    jobs = [world.submit(output=4) for _ in range(3)]
    world.run_until(100.15)
    state = world.engine.state()
    assert (state.running, state.waiting) == (2, 1)
    world.run_until(200.0)
    # The first enters at once, the second with the next step, the third when the first is done.
    assert [world.times(job)[0] for job in jobs] == [0.1, 0.2, 0.5]
    queued = world.meter.histograms["request_queue_time_seconds"]
    assert (queued.count, queued.total) == (3, pytest.approx(0.0 + 0.1 + 0.4))


def test_too_few_blocks_lead_to_preemption_and_all_still_finish() -> None:
    # Two sequences of 16 + 40 tokens need 8 blocks; there are 5.
    world = World(kv_blocks=5, max_model_len=64)
    jobs = [world.submit(prompt=16, output=40) for _ in range(2)]
    most = 0.0
    while (due := world.engine.next_due()) is not None:
        world.run_until(due)
        most = max(most, world.engine.state().kv_usage)
    assert most == 1.0
    assert world.engine.state().preemptions >= 1
    assert [len(world.times(job)) for job in jobs] == [40, 40]
    assert world.meter.histograms["request_num_preemptions"].total >= 1


def test_a_shared_prefix_is_found_in_the_cache_and_counted() -> None:
    world = World()
    for _ in range(2):
        world.submit(prompt=40, output=1, prefix=(11, 12))
        world.run_until(world.wall + 1.0)
    state = world.engine.state()
    assert (state.prefix_queries, state.prefix_hits) == (80, 32)
    assert world.meter.prompt_tokens_cached == 32
    assert world.meter.histograms["request_prefill_kv_computed_tokens"].total == 80 - 32


def test_an_aborted_job_leaves_and_its_place_is_given_on() -> None:
    world = World(max_num_seqs=1)
    first, second = world.submit(output=50), world.submit(output=1)
    world.run_until(100.25)
    world.engine.abort(first)
    world.engine.abort(first)
    world.run_until(200.0)
    assert world.reasons() == {first: "abort", second: "length"}
    assert world.meter.finished["abort"] == 1
    assert world.engine.prefill_backlog == 0


def test_aborting_everything_empties_the_engine() -> None:
    world = World(max_num_seqs=2)
    for _ in range(5):
        world.submit(output=9)
    world.run_until(100.15)
    assert world.engine.abort_all() == 5
    assert set(world.reasons().values()) == {"abort"}
    world.run_until(200.0)
    state = world.engine.state()
    assert (state.running, state.waiting, state.kv_usage) == (0, 0, 0.0)


def test_counts_agree_with_what_was_emitted() -> None:
    world = World()
    for output in (1, 2, 5):
        world.submit(prompt=10, output=output)
    world.run_until(200.0)
    emitted = sum(tokens for _, _, tokens, _ in world.out)
    histograms = world.meter.histograms
    assert world.meter.generation_tokens == emitted == 8
    assert world.meter.prompt_tokens == 30
    assert histograms["inter_token_latency_seconds"].count == 8 - 3
    assert histograms["inter_token_latency_seconds"].total == pytest.approx(0.5)
    assert histograms["time_to_first_token_seconds"].count == 3
    assert histograms["iteration_tokens_total"].total == 30 + 8
    assert histograms["request_generation_tokens"].total == 8
    assert histograms["e2e_request_latency_seconds"].total == pytest.approx(0.1 + 0.3 + 0.6)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["submit", "submit", "abort", "run"]),
            st.integers(1, 40),
            st.integers(1, 24),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_whatever_comes_and_goes_everything_ends_and_nothing_is_left(script) -> None:
    world = World(kv_blocks=6, max_num_seqs=3, max_num_batched_tokens=32)
    wanted: dict[int, int] = {}
    for what, first, second, family in script:
        if what == "submit":
            prefix = tuple(family * 100 + block for block in range(first // 16))
            wanted[world.submit(prompt=first, output=second, prefix=prefix)] = second
        elif what == "abort" and wanted:
            world.engine.abort(list(wanted)[first % len(wanted)])
        else:
            world.run_until(world.wall + second / 20)
    world.run_until(world.wall + 1000.0)
    state = world.engine.state()
    assert (state.running, state.waiting, state.kv_usage) == (0, 0, 0.0)
    assert world.engine.unfinished == 0
    assert world.engine.prefill_backlog == 0
    reasons = world.reasons()
    assert reasons.keys() == wanted.keys()
    for job, tokens in wanted.items():
        got = sum(count for _, one, count, _ in world.out if one == job)
        assert got == tokens if reasons[job] == "length" else got < tokens
    assert world.meter.generation_tokens == sum(count for _, _, count, _ in world.out)
    assert sum(world.meter.finished.values()) == len(wanted)
    queued = world.meter.histograms["request_queue_time_seconds"]
    assert queued.count == world.meter.finished["length"]
    assert 0 <= world.meter.prompt_tokens_cached <= world.meter.prompt_tokens
