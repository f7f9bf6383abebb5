"""What traffic looks like: arrivals and token lengths, generated from a seed or recorded.

The estimator's load points, the simulator's arrivals, the injector's requests and the gateway's
access log are all these types. A recorded ``Trace`` and a generated one are the same value.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

USUAL_SPREAD = 0.5
"""Sigma of the logarithm where one figure only is stated: p95 is 2.3 times the median."""

_Z95 = 1.6448536269514722
"""Standard normal quantile at 0.95."""


@dataclass(frozen=True)
class Lengths:
    """Token counts of prompts or answers: a log-normal law, or ``samples`` drawn as they are.

    ``mu`` and ``sigma`` are those of the logarithm; sigma 0 is one fixed length. Draws lie in
    ``least``..``most``.
    """

    mu: float
    sigma: float
    least: int = 1
    most: int = 1_000_000
    samples: tuple[int, ...] = ()

    @classmethod
    def fixed(cls, tokens: int) -> Lengths:
        """Every request has this length."""
        return cls(mu=math.log(max(1, tokens)), sigma=0.0)

    @classmethod
    def fit(
        cls,
        *,
        mean: float | None = None,
        p50: float | None = None,
        p95: float | None = None,
        most: int = 1_000_000,
    ) -> Lengths:
        """The log-normal law with these figures; two fix it, one is taken with a usual spread.

        With all three the median and the 95th percentile count. Raises ValueError when none is
        given or they contradict each other.
        """
        given = [figure for figure in (mean, p50, p95) if figure is not None]
        if not given or min(given) <= 0:
            raise ValueError("token lengths need a positive mean, p50 or p95")
        if p50 is not None and p95 is not None:
            if p95 < p50:
                raise ValueError(f"p95 ({p95:g}) must not be below p50 ({p50:g})")
            return cls(math.log(p50), math.log(p95 / p50) / _Z95, most=most)
        if mean is not None and p50 is not None:
            if mean < p50:
                raise ValueError(f"the mean ({mean:g}) must not be below p50 ({p50:g})")
            return cls(math.log(p50), math.sqrt(2 * math.log(mean / p50)), most=most)
        if mean is not None and p95 is not None:
            # ln p95 - ln mean = z sigma - sigma^2/2; the smaller root is the law without a
            # tail longer than the figures ask for.
            gap = math.log(p95 / mean)
            inside = _Z95**2 - 2 * gap
            if gap < 0 or inside < 0:
                raise ValueError(f"no log-normal law has mean {mean:g} and p95 {p95:g}")
            sigma = _Z95 - math.sqrt(inside)
            return cls(math.log(mean) - sigma**2 / 2, sigma, most=most)
        sigma = USUAL_SPREAD
        if mean is not None:
            return cls(math.log(mean) - sigma**2 / 2, sigma, most=most)
        if p95 is not None:
            return cls(math.log(p95) - _Z95 * sigma, sigma, most=most)
        return cls(math.log(given[0]), sigma, most=most)

    @classmethod
    def empirical(cls, samples: Sequence[int]) -> Lengths:
        """The very lengths of a recording. Raises ValueError on none."""
        if not samples:
            raise ValueError("an empirical law needs at least one length")
        logs = [math.log(max(1, n)) for n in samples]
        mu = sum(logs) / len(logs)
        sigma = math.sqrt(sum((x - mu) ** 2 for x in logs) / len(logs))
        return cls(mu, sigma, samples=tuple(sorted(max(1, n) for n in samples)))

    def scaled(self, factor: float) -> Lengths:
        """The same law with every length ``factor`` times as long."""
        samples = tuple(max(1, round(factor * n)) for n in self.samples)
        return Lengths(self.mu + math.log(factor), self.sigma, self.least, self.most, samples)

    def mean(self) -> float:
        """Expected tokens."""
        if self.samples:
            return sum(self.samples) / len(self.samples)
        return min(float(self.most), math.exp(self.mu + self.sigma**2 / 2))

    def second_moment(self) -> float:
        """Expected square of the tokens."""
        if self.samples:
            return sum(n * n for n in self.samples) / len(self.samples)
        return min(float(self.most) ** 2, math.exp(2 * self.mu + 2 * self.sigma**2))

    def quantile(self, share: float) -> float:
        """Tokens that ``share`` (0..1, exclusive) of the requests do not exceed."""
        if self.samples:
            return float(self.samples[min(len(self.samples) - 1, int(share * len(self.samples)))])
        if self.sigma == 0:
            return math.exp(self.mu)
        drawn = math.exp(self.mu + self.sigma * NormalDist().inv_cdf(share))
        return max(float(self.least), min(float(self.most), drawn))

    def draw(self, random_source: random.Random) -> int:
        """One length."""
        if self.samples:
            return self.samples[random_source.randrange(len(self.samples))]
        drawn = math.exp(self.mu + self.sigma * random_source.gauss(0.0, 1.0))
        return max(self.least, min(self.most, round(drawn)))


@dataclass(frozen=True)
class Arrivals:
    """When requests come. ``rate_per_s`` is the mean rate.

    ``gamma`` draws gaps with coefficient of variation ``burstiness`` (1 is Poisson); ``trace``
    repeats the recorded times, stretched to the rate.
    """

    rate_per_s: float
    kind: Literal["poisson", "constant", "gamma", "trace"] = "poisson"
    burstiness: float = 1.0
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.rate_per_s <= 0:
            raise ValueError("an arrival rate must be above 0")
        if self.kind == "trace" and len(self.times) < 2:
            raise ValueError("a trace of arrivals needs at least two times")

    def gaps(self, random_source: random.Random) -> Iterator[float]:
        """Seconds between arrivals, without end."""
        mean = 1.0 / self.rate_per_s
        if self.kind == "trace":
            recorded = [later - earlier for earlier, later in pairwise(self.times)]
            stretch = mean * len(recorded) / max(sum(recorded), 1e-12)
            while True:
                yield from (gap * stretch for gap in recorded)
        while True:
            if self.kind == "constant" or self.burstiness == 0:
                yield mean
            elif self.kind == "gamma":
                shape = 1.0 / self.burstiness**2
                yield random_source.gammavariate(shape, mean / shape)
            else:
                yield random_source.expovariate(self.rate_per_s)


@dataclass(frozen=True)
class Workload:
    """The traffic of one service: rates in requests per second, lengths in tokens.

    ``prefix_reuse`` is the share of prompt tokens whose prefix another request brought before.
    ``burstiness`` is the coefficient of variation of the gaps between arrivals.
    """

    peak_per_s: float
    mean_per_s: float
    input: Lengths
    output: Lengths
    prefix_reuse: float = 0.0
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        if self.peak_per_s <= 0 or self.mean_per_s <= 0:
            raise ValueError("traffic rates must be above 0")
        if self.mean_per_s > self.peak_per_s * (1 + 1e-9):
            raise ValueError("the mean rate must not exceed the peak rate")
        if not 0 <= self.prefix_reuse < 1:
            raise ValueError("prefix reuse is a share of at least 0 and below 1")

    def arrivals(self, rate_per_s: float) -> Arrivals:
        """Arrivals of this traffic at another mean rate."""
        kind: Literal["poisson", "gamma"] = "poisson" if self.burstiness == 1 else "gamma"
        return Arrivals(rate_per_s, kind, self.burstiness)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One generated request; ``group`` tells which shared prefix it starts with."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    prefix_tokens: int = 0
    group: int = 0


PREFIX_GROUPS = 16
"""How many different shared prefixes generated traffic has."""


def sample(workload: Workload, rate_per_s: float, *, count: int, seed: int) -> tuple[Sampled, ...]:
    """``count`` requests at a mean rate. The same seed gives the same lengths at every rate."""
    times = random.Random(f"{seed}/arrivals")  # noqa: S311
    lengths = random.Random(f"{seed}/lengths")  # noqa: S311
    gaps = workload.arrivals(rate_per_s).gaps(times)
    now = 0.0
    requests = []
    for _ in range(count):
        now += next(gaps)
        prompt = workload.input.draw(lengths)
        answer = workload.output.draw(lengths)
        group = lengths.randrange(PREFIX_GROUPS)
        requests.append(Sampled(now, prompt, answer, int(prompt * workload.prefix_reuse), group))
    return tuple(requests)


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One recorded request. Times in seconds; ``arrival_s`` since the start of the trace.

    What the recorder could not know is None: tokens behind a gateway that does not read bodies,
    ``ttft_s`` of a request that never got a byte.
    """

    arrival_s: float
    service: str
    replica: str
    prompt_tokens: int | None
    output_tokens: int | None
    ttft_s: float | None
    total_s: float | None
    status: int
    request_bytes: int = 0
    response_bytes: int = 0


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival."""

    requests: tuple[TraceRequest, ...]

    def duration_s(self) -> float:
        """Seconds from the first to the last arrival."""
        if not self.requests:
            return 0.0
        return self.requests[-1].arrival_s - self.requests[0].arrival_s

    def between(self, start_s: float, end_s: float) -> Trace:
        """The requests that arrived at ``start_s`` or later and before ``end_s``."""
        return Trace(tuple(r for r in self.requests if start_s <= r.arrival_s < end_s))

    def of_service(self, service: str) -> Trace:
        """The requests of one service."""
        return Trace(tuple(r for r in self.requests if r.service == service))

    def rate_per_s(self, window_s: float, *, end_s: float) -> float:
        """Mean arrivals per second over the window that ends at ``end_s``."""
        if window_s <= 0:
            raise ValueError("a window must be longer than 0 s")
        return len(self.between(end_s - window_s, end_s).requests) / window_s

    def peak_per_s(self, window_s: float) -> float:
        """The highest rate over any window of this length that starts at an arrival."""
        times = [request.arrival_s for request in self.requests]
        most = max(
            (bisect_right(times, t + window_s) - i for i, t in enumerate(times)),
            default=0,
        )
        return most / window_s


def workload_of(
    trace: Trace, *, peak_window_s: float = 10.0, prefix_reuse: float = 0.0
) -> Workload:
    """The traffic a trace shows. Raises ValueError when no request has known token counts."""
    prompts = [r.prompt_tokens for r in trace.requests if r.prompt_tokens]
    answers = [r.output_tokens for r in trace.requests if r.output_tokens]
    if not prompts or not answers:
        raise ValueError("the trace has no request with known prompt and output tokens")
    mean = len(trace.requests) / max(trace.duration_s(), peak_window_s)
    return Workload(
        peak_per_s=max(mean, trace.peak_per_s(peak_window_s)),
        mean_per_s=mean,
        input=Lengths.empirical(prompts),
        output=Lengths.empirical(answers),
        prefix_reuse=prefix_reuse,
    )
