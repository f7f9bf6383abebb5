"""The replica model keeps vLLM's rules, and its shortcuts change nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_by_step import SlowReplica

from enova.capacity.perf.point import LinearStepTime
from enova.capacity.sim.replica import Replica, ReplicaLimits, SimRequest

STEP = LinearStepTime(base=0.01, per_prefill_token=1e-5, per_decode=1e-4, per_context_token=1e-7)


def limits(**changes: int) -> ReplicaLimits:
    plain = {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "max_model_len": 256,
        "kv_blocks": 64,
        "block_size": 4,
    }
    return ReplicaLimits(**{**plain, **changes})


def tokens_of(
    replica: Replica, requests: list[SimRequest], *, aborts: dict[int, float], jump: bool
):
    """Every (time, id) at which a token came out; those of strides (when ``jump``) without id."""
    todo = sorted(
        [(r.arrival_s, 0, r) for r in requests] + [(t, 1, i) for i, t in aborts.items()],
        key=lambda event: (event[0], event[1], str(event[2])),
    )
    out: list[tuple[float, int]] = []
    while todo or replica.next_step_end() is not None:
        until = todo[0][0] if todo else float("inf")
        end = replica.next_step_end()
        if end is not None and end <= until:
            stride = replica.stride(until) if jump else None
            if stride is not None:
                out.extend([(stride.now, -1)] * (stride.steps * stride.decodes))
                continue
            result = replica.finish_step()
            out.extend((result.now, request) for request, _ in result.emitted)
            continue
        time, kind, what = todo.pop(0)
        if kind == 0:
            replica.submit(what, time)
        else:
            replica.abort(what, time)
    return out


def slow_tokens(requests: list[SimRequest], lim: ReplicaLimits, *, aborts: dict[int, float]):
    slow = SlowReplica(STEP, lim)
    todo = sorted(
        [(r.arrival_s, 0, r) for r in requests] + [(t, 1, i) for i, t in aborts.items()],
        key=lambda event: (event[0], event[1], str(event[2])),
    )
    while todo or slow.ends is not None:
        if slow.ends is not None and (not todo or slow.ends <= todo[0][0]):
            slow.finish_step()
            assert all(count >= 0 for count in slow.references.values())
            continue
        time, kind, what = todo.pop(0)
        if kind == 0:
            slow.submit(what, time)
        else:
            slow.abort(what)
    return slow


@st.composite
def scenes(draw: st.DrawFn):
    block = draw(st.sampled_from([1, 4, 16]))
    longest = draw(st.integers(8, 96))
    least = -(-longest // block)
    lim = ReplicaLimits(
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(8, 80)),
        max_model_len=longest,
        kv_blocks=draw(st.integers(least, least * 4)),
        block_size=block,
        prefix_caching=draw(st.booleans()),
    )
    requests = []
    for i in range(draw(st.integers(1, 14))):
        prompt = draw(st.integers(1, longest - 1))
        group = draw(st.integers(0, 3))
        shared = draw(st.integers(0, prompt // block))
        requests.append(
            SimRequest(
                id=i,
                arrival_s=draw(st.integers(0, 60)) * 0.0137,
                prompt_tokens=prompt,
                output_tokens=draw(st.integers(1, 60)),
                prefix=tuple(group * 1000 + n for n in range(shared)) if group else (),
            )
        )
    aborts = {
        i: draw(st.integers(1, 90)) * 0.0171
        for i in draw(st.sets(st.integers(0, len(requests) - 1), max_size=3))
    }
    return lim, requests, aborts


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_it_agrees_with_the_step_by_step_reference(scene) -> None:
    lim, requests, aborts = scene
    slow = slow_tokens(requests, lim, aborts=aborts)
    replica = Replica(STEP, lim)
    fast = tokens_of(replica, requests, aborts=aborts, jump=False)
    assert sorted(r for _, r in fast) == sorted(r for _, r in slow.log)
    for (at, request), (slow_at, slow_request) in zip(sorted(fast), sorted(slow.log), strict=True):
        assert at == pytest.approx(slow_at)
        assert request == slow_request
    assert replica.preemptions == slow.preemptions
    assert replica.kv_blocks_used == slow.used() == 0
    assert replica.running == replica.waiting == 0


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_strides_change_nothing(scene) -> None:
    lim, requests, aborts = scene
    single, jumping = Replica(STEP, lim), Replica(STEP, lim)
    one = tokens_of(single, requests, aborts=aborts, jump=False)
    strides = tokens_of(jumping, requests, aborts=aborts, jump=True)
    assert jumping.steps == single.steps
    assert jumping.preemptions == single.preemptions
    assert jumping.prefix_hits == single.prefix_hits
    assert jumping.kv_blocks_used == 0
    assert len(strides) == len(one)


def ends(lim: ReplicaLimits, requests: list[SimRequest], *, jump: bool) -> dict[int, float]:
    replica = Replica(STEP, lim)
    todo = sorted(requests, key=lambda r: r.arrival_s)
    done: dict[int, float] = {}
    while todo or replica.next_step_end() is not None:
        until = todo[0].arrival_s if todo else float("inf")
        end = replica.next_step_end()
        if end is None or end > until:
            replica.submit(todo.pop(0), until)
        elif not (jump and replica.stride(until)):
            result = replica.finish_step()
            done.update(dict.fromkeys(result.finished, result.now))
    return done


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_strides_end_requests_at_the_same_times(scene) -> None:
    lim, requests, _ = scene
    assert ends(lim, requests, jump=True) == pytest.approx(ends(lim, requests, jump=False))


def test_at_no_load_the_first_token_takes_the_prefill_and_each_other_one_step() -> None:
    replica = Replica(STEP, limits())
    replica.submit(SimRequest(1, 5.0, 40, 3), 5.0)
    first = replica.finish_step()
    assert first.first_token == (1,) and first.admitted == (1,)
    assert first.began == 5.0
    assert first.now == 5.0 + STEP(prefill_tokens=40, decodes=0, context_tokens=0)
    second = replica.finish_step()
    assert second.now - first.now == pytest.approx(
        STEP(prefill_tokens=0, decodes=1, context_tokens=41)
    )
    assert replica.finish_step().finished == (1,)
    assert replica.next_step_end() is None


def test_a_long_prompt_is_cut_into_chunks_behind_running_decodes() -> None:
    replica = Replica(STEP, limits(max_num_batched_tokens=32))
    replica.submit(SimRequest(1, 0.0, 8, 50), 0.0)
    replica.finish_step()
    replica.submit(SimRequest(2, 0.0, 100, 2), 0.0)
    replica.finish_step()
    chunks = [replica.finish_step() for _ in range(4)]
    assert [c.prefill_tokens for c in chunks] == [31, 31, 31, 7]
    assert [c.decode_tokens for c in chunks] == [1, 1, 1, 1]
    assert chunks[-1].first_token == (2,)


def test_the_latest_sequence_gives_way_when_blocks_run_out() -> None:
    replica = Replica(STEP, limits(kv_blocks=10, max_model_len=40))
    for i in (1, 2):
        replica.submit(SimRequest(i, 0.0, 16, 20), 0.0)
    preempted: list[int] = []
    finished: list[int] = []
    while replica.next_step_end() is not None:
        result = replica.finish_step()
        preempted += result.preempted
        finished += result.finished
    assert preempted == [2]
    assert finished == [1, 2]
    assert replica.preemptions == 1


def test_a_shared_prefix_is_computed_once() -> None:
    replica = Replica(STEP, limits())
    shared = tuple(range(8))
    replica.submit(SimRequest(1, 0.0, 40, 2, shared), 0.0)
    assert replica.finish_step().prefill_tokens == 40
    replica.submit(SimRequest(2, 0.0, 40, 2, shared), 0.0)
    replica.finish_step()
    assert replica.finish_step().prefill_tokens == 8
    assert (replica.prefix_queries, replica.prefix_hits) == (80, 32)


def test_an_aborted_request_frees_its_blocks_and_emits_nothing_more() -> None:
    replica = Replica(STEP, limits())
    replica.submit(SimRequest(1, 0.0, 16, 20), 0.0)
    replica.finish_step()
    assert replica.kv_blocks_used == 5
    replica.abort(1, 0.02)
    assert replica.kv_blocks_used == 0
    assert replica.finish_step().emitted == ()
    assert replica.next_step_end() is None


def test_a_prompt_without_room_for_an_answer_is_refused() -> None:
    replica = Replica(STEP, limits())
    with pytest.raises(ValueError, match="no room for an answer"):
        replica.submit(SimRequest(1, 0.0, 256, 1), 0.0)


def test_limits_the_engine_would_refuse_are_refused() -> None:
    with pytest.raises(ValueError, match="less than one sequence"):
        limits(kv_blocks=10)
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        limits(max_num_batched_tokens=4)
