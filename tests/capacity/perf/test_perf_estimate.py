"""Step times and estimates: the properties any performance model of an engine must have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enova.capacity.catalog import gpus, models
from enova.capacity.catalog.shape import with_quantization
from enova.capacity.perf.estimate import (
    Calibration,
    Configuration,
    RooflineEstimator,
)
from enova.capacity.perf.memory import Layout
from enova.capacity.perf.point import Figure, LinearStepTime, ScaledStepTime
from enova.capacity.perf.roofline import Roofline, linearize, request_overhead
from enova.capacity.sim.report import Goal
from enova.capacity.workload import Lengths, Workload

ESTIMATOR = RooflineEstimator()
WORK = Workload(20, 10, Lengths.fit(p50=400, p95=1200), Lengths.fit(p50=100, p95=300))
MODELS = (
    "meta-llama/Llama-3.1-8B",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "google/gemma-2-9b",
)


def config(model: str = MODELS[0], device: str = "h100", ranks: int = 1, **layout: object):
    shape, facts = models.find(model), gpus.find(device)
    assert shape is not None and facts is not None
    fields = {"tensor_parallel": ranks, "max_num_seqs": 256, "max_model_len": 8192, **layout}
    return Configuration(shape, facts, Layout(**fields), 8192)


def step(model: str = MODELS[0], device: str = "h100", ranks: int = 1) -> Roofline:
    c = config(model, device, ranks)
    return Roofline(c.shape, c.device, c.layout, typical_prompt=600, typical_context=600)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.sampled_from(["h100", "l4", "b200"]),
    st.sampled_from([1, 2, 8]),
    st.integers(0, 4096),
    st.integers(1, 512),
    st.integers(0, 500_000),
)
def test_more_work_is_never_faster(
    model: str, device: str, ranks: int, prefill: int, decodes: int, context: int
) -> None:
    law = step(model, device, ranks)
    base = law(prefill_tokens=prefill, decodes=decodes, context_tokens=context)
    assert base > 0
    assert law(prefill_tokens=prefill + 64, decodes=decodes, context_tokens=context) >= base
    assert law(prefill_tokens=prefill, decodes=decodes + 1, context_tokens=context) >= base
    more = law(prefill_tokens=prefill, decodes=decodes, context_tokens=context + 1000)
    assert more > base
    twice = law(prefill_tokens=prefill, decodes=decodes, context_tokens=context + 2000)
    assert twice - more == pytest.approx(more - base, rel=1e-6)


def test_one_rank_has_no_collectives() -> None:
    c = config()
    slow_link = replace(c.device, link=1.0)
    for ranks in (1, 2):
        laws = [
            Roofline(
                c.shape,
                device,
                replace(c.layout, tensor_parallel=ranks),
                typical_prompt=600,
                typical_context=600,
            )(prefill_tokens=100, decodes=10, context_tokens=1000)
            for device in (c.device, slow_link)
        ]
        assert (laws[0] == laws[1]) is (ranks == 1)


def test_known_steps_are_near() -> None:
    """One stream of Llama 3.1 8B decodes in 6 to 8 ms on an H100, 9 to 12 ms on an A100."""
    assert 0.006 < step()(prefill_tokens=0, decodes=1, context_tokens=500) < 0.008
    assert 0.009 < step(device="a100")(prefill_tokens=0, decodes=1, context_tokens=500) < 0.012


def test_eight_bit_weights_are_faster() -> None:
    c = config()
    small = Roofline(
        with_quantization(c.shape, "fp8"),
        c.device,
        c.layout,
        typical_prompt=600,
        typical_context=600,
    )
    usual = step()
    for work in ((0, 1, 500), (4096, 0, 0)):
        args = dict(zip(("prefill_tokens", "decodes", "context_tokens"), work, strict=True))
        assert small(**args) < usual(**args)


def test_the_linear_law_meets_the_step_time_where_it_was_fitted() -> None:
    law = step()
    linear = linearize(law, decodes=64, prefill_tokens=2048)
    for args in (
        {"prefill_tokens": 0, "decodes": 1, "context_tokens": 0},
        {"prefill_tokens": 0, "decodes": 64, "context_tokens": 64 * 600},
        {"prefill_tokens": 2048, "decodes": 0, "context_tokens": 0},
    ):
        assert linear(**args) == pytest.approx(law(**args), rel=0.02)


def test_a_slower_replica_is_slower_by_the_factor() -> None:
    law = LinearStepTime(0.01, 1e-5, 1e-4, 1e-7)
    args = {"prefill_tokens": 10, "decodes": 3, "context_tokens": 100}
    assert ScaledStepTime(law, 1.5)(**args) == pytest.approx(1.5 * law(**args))


def test_without_load_the_first_token_takes_one_prefill() -> None:
    work = Workload(1, 1, Lengths.fixed(500), Lengths.fixed(20))
    c = config()
    found = ESTIMATOR.simulate(c, work, 1e-3, count=50)
    law = ESTIMATOR.step_time(c, work)
    prefill = law(prefill_tokens=500, decodes=0, context_tokens=0)
    expected = prefill + request_overhead(c.device, 500)
    assert found.report.percentile("ttft", 50) == pytest.approx(expected, rel=1e-6)
    assert found.report.percentile("ttft", 99) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 30.0), st.floats(1.05, 2.0))
def test_more_load_never_lowers_the_time_per_token(rate: float, factor: float) -> None:
    c = config()
    low = ESTIMATOR.steady_state(c, WORK, rate)
    high = ESTIMATOR.steady_state(c, WORK, rate * factor)
    assert high.tpot_s >= low.tpot_s * (1 - 1e-6)
    assert high.running >= low.running * (1 - 1e-6)


def test_the_first_token_comes_later_for_longer_prompts() -> None:
    c = config()
    times = [
        ESTIMATOR.simulate(
            c, replace(WORK, input=Lengths.fixed(tokens)), 2.0, count=100
        ).report.percentile("ttft", 50)
        for tokens in (100, 500, 2000, 6000)
    ]
    assert times == sorted(times)


def test_the_same_question_has_the_same_answer() -> None:
    c = config()
    assert ESTIMATOR.simulate(c, WORK, 10, count=200) == ESTIMATOR.simulate(c, WORK, 10, count=200)


def test_the_steady_state_agrees_with_the_simulation() -> None:
    c = config()
    for rate in (5.0, 20.0):
        quick = ESTIMATOR.steady_state(c, WORK, rate)
        slow = ESTIMATOR.simulate(c, WORK, rate, count=1500).report
        assert quick.stable
        assert quick.tpot_s == pytest.approx(slow.percentile("tpot", 50), rel=0.1)
        assert quick.running == pytest.approx(slow.running, rel=0.15)


def test_a_rate_beyond_the_replica_is_not_stable() -> None:
    assert not ESTIMATOR.steady_state(config(), WORK, 1000).stable


def test_every_figure_has_an_interval_and_a_source() -> None:
    guess = ESTIMATOR.simulate(config(), WORK, 5, count=100)
    figure = guess.figure("tpot", 95)
    assert figure.low < figure.value < figure.high
    assert (figure.source, guess.doubt.calibrated) == ("data sheet", False)
    law = LinearStepTime(0.008, 2e-5, 1e-5, 1e-7)
    sharp = ESTIMATOR.simulate(replace(config(), calibration=Calibration(law)), WORK, 5, count=100)
    assert sharp.figure("tpot", 95).source == "measured here"
    assert sharp.doubt.step < guess.doubt.step


def test_the_upper_end_must_meet_the_goal() -> None:
    found = ESTIMATOR.simulate(config(), WORK, 5, count=100)
    figure = found.figure("tpot", 95)
    assert not found.meets([Goal("tpot", 95, (figure.value + figure.high) / 2)])
    assert found.meets([Goal("tpot", 95, figure.high)])


def test_an_emulated_replica_runs_the_linear_law() -> None:
    c = replace(config(), emulated=True)
    assert ESTIMATOR.step_time(c, WORK) == ESTIMATOR.law(c, WORK)


def test_a_figure_survives_being_written() -> None:
    from enova.base.digest import plain

    figure = Figure(1.0, 0.5, 2.0, "fitted")
    data = plain(figure)
    assert isinstance(data, dict)
    assert Figure.from_plain(data) == figure
    with pytest.raises(ValueError, match="source"):
        Figure.from_plain({**data, "source": "guessed"})
