"""Why a query of the stack's own Prometheus finds nothing, and whether that is as it should be.

In: the query, the series that rules record, what Prometheus says of its targets and rules, and what
it has of the raw series the query rests on. Out: a ``Reason`` in words, or None where everything
is read and counted and the query finds nothing all the same. Nobody is asked here: ``rests_on``
says what must be known first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from enova.base.units import format_duration, parse_duration
from enova.policy.signals import MEANINGS
from enova.stack import recording
from enova.stack.queries import CLASS_LABEL, CLUSTER_LABEL
from enova.stack.recording import Recorded
from enova.stack.render.prometheus import ENGINES, GATEWAY, RECONCILER

GPUS = "dcgm-exporter"

_SOURCES: tuple[tuple[str, str], ...] = (
    ("envoy_", GATEWAY),
    ("DCGM_", GPUS),
    ("enova_", RECONCILER),
)
"""Whose page a raw series is on, by the start of its name; all others are the engines'."""

_COUNTERS = ("_total", "_count", "_sum", "_bucket", "_completed", "_xx", "_VIOLATION")

_SELECTOR = re.compile(
    r"(?<![\w:\"$])(?P<name>enova:[\w:]+|up\b|envoy_\w+|DCGM_\w+|enova_\w+|\w+:[\w:]+)"
    r"(?P<select>\{[^{}]*\})?(?:\[(?P<window>\d+\w+)[\]:])?(?:\s+offset\s+(?P<offset>\d+\w+))?"
)
_JOB = re.compile(r'job="([^"]+)"')


@dataclass(frozen=True)
class Scraped:
    """One target as Prometheus sees it. ``up`` None: it has not been read yet."""

    job: str
    instance: str
    address: str
    url: str
    up: bool | None
    error: str = ""


@dataclass(frozen=True)
class Evaluated:
    """One rule as Prometheus sees it. ``error`` is what its last evaluation met."""

    name: str
    evaluated: bool
    error: str = ""


@dataclass(frozen=True)
class Leaf:
    """A raw series as a query selects it; ``window_s`` or ``offset_s`` where it looks back."""

    name: str
    select: str = ""
    window_s: float | None = None
    offset_s: float | None = None

    @property
    def job(self) -> str:
        """Whose page it is on."""
        if self.name == "up":
            found = _JOB.search(self.select)
            return found[1] if found else ENGINES
        return next((job for start, job in _SOURCES if self.name.startswith(start)), ENGINES)

    @property
    def counts(self) -> bool:
        """Whether it only grows."""
        return self.name.endswith(_COUNTERS)

    @property
    def selector(self) -> str:
        """It without looking back."""
        return f"{self.name}{self.select}"


@dataclass(frozen=True)
class LeafNow:
    """What Prometheus has of a leaf. ``series``: there now. ``enough``: it was read often enough
    to look back so far. ``growth``: how much it grew in its window, None where that is no question.
    """

    series: int
    enough: bool = True
    growth: float | None = None


@dataclass(frozen=True)
class Known:
    """What Prometheus says. ``found`` names the series whose rules find something right now."""

    recorded: Mapping[str, tuple[Recorded, ...]]
    """What is to be recorded, by name."""
    targets: tuple[Scraped, ...] = ()
    rules: tuple[Evaluated, ...] = ()
    leaves: Mapping[Leaf, LeafNow] = field(default_factory=dict)
    found: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reason:
    """Why there is nothing. ``wrong``: it should not be so."""

    text: str
    wrong: bool = False


def by_name(recorded: Iterable[Recorded]) -> dict[str, tuple[Recorded, ...]]:
    """Series by name: those of goals have several rules each."""
    found: dict[str, tuple[Recorded, ...]] = {}
    for one in recorded:
        found[one.name] = (*found.get(one.name, ()), one)
    return found


def rests_on(
    query: str, recorded: Mapping[str, tuple[Recorded, ...]]
) -> tuple[tuple[str, ...], tuple[Leaf, ...]]:
    """The recorded series a query uses, also by others, and the raw ones below them, each sorted.

    The query is one of ours: no series is named inside a text of it.
    """
    names: set[str] = set()
    leaves: set[Leaf] = set()
    texts = [query]
    while texts:
        for leaf in _selected(texts.pop()):
            if not leaf.name.startswith(recording.PREFIX):
                leaves.add(leaf)
            elif leaf.name not in names:
                names.add(leaf.name)
                texts += [one.query for one in recorded.get(leaf.name, ())]

    def place(leaf: Leaf) -> tuple[str, float, float]:
        return leaf.selector, leaf.window_s or 0.0, leaf.offset_s or 0.0

    return tuple(sorted(names)), tuple(sorted(leaves, key=place))


def why(query: str, known: Known) -> Reason | None:
    """The first thing that explains it, from Prometheus' own rules down to the requests."""
    names, leaves = rests_on(query, known.recorded)
    checks = (
        _not_recorded(names, known),
        _not_evaluated(names, known),
        _not_read(leaves, known),
        _too_early(leaves, known),
        _nothing_happened(leaves, known),
        _not_yet_recorded(names, known),
        _not_reported(leaves, known),
    )
    return next(filter(None, checks), None)


def down(targets: Iterable[Scraped]) -> str:
    """Targets that do not answer, with what was met, in words."""
    return "; ".join(
        f"{one.address} does not answer: {brief(one.error)}" for one in targets if one.up is False
    )


def _not_recorded(names: Iterable[str], known: Known) -> Reason | None:
    for name in names:
        if name in known.recorded:
            continue
        signal = name.removeprefix(recording.PREFIX)
        if signal.startswith("usd_"):
            return Reason("the devices have no price (pool.prices)")
        if signal in MEANINGS and MEANINGS[signal].of == "gpu":
            return Reason("no DCGM exporter is part of this stack, so nothing is known of GPUs")
        if signal == "goal_predicted":
            return Reason("the choice predicts nothing for any goal")
        if signal in MEANINGS and MEANINGS[signal].of == "goal":
            return Reason("no service has a latency goal")
        return Reason("this version of the engine does not report it")
    return None


def _not_evaluated(names: Iterable[str], known: Known) -> Reason | None:
    loaded: dict[str, list[Evaluated]] = {}
    for rule in known.rules:
        loaded.setdefault(rule.name, []).append(rule)
    for name in names:
        rules = loaded.get(name)
        if rules is None:
            return Reason(f"Prometheus has not loaded the rule of {name}", wrong=True)
        failed = next((rule.error for rule in rules if rule.error), "")
        if failed:
            return Reason(f"the rule of {name} fails: {brief(failed)}", wrong=True)
        if not any(rule.evaluated for rule in rules):
            return Reason("a recording rule below it has not been evaluated yet")
    return None


_ABSENT: Mapping[str, Reason] = {
    ENGINES: Reason("no replica is there to be read"),
    GATEWAY: Reason("no gateway is there to be read", wrong=True),
    RECONCILER: Reason("the reconciler does not run"),
    GPUS: Reason("the DCGM exporter is not there to be read", wrong=True),
}


def _not_read(leaves: Collection[Leaf], known: Known) -> Reason | None:
    """A source of which nothing is read. One that is read in part is no reason."""
    if not known.targets:
        text = "Prometheus has found nothing to read; right after its start that takes seconds"
        return Reason(text, wrong=True) if leaves else None
    for job in sorted({leaf.job for leaf in leaves}):
        targets = [target for target in known.targets if target.job == job]
        if not targets:
            return _ABSENT.get(job, Reason(f"nothing is read as {job}", wrong=True))
        if any(target.up for target in targets):
            continue
        if any(target.up is None for target in targets):
            return Reason(f"{_addresses(targets)}: not read yet")
        return Reason(down(targets), wrong=True)
    return None


def _too_early(leaves: Iterable[Leaf], known: Known) -> Reason | None:
    early = [
        (leaf.window_s or leaf.offset_s or 0.0, leaf.job)
        for leaf in leaves
        if (now := known.leaves.get(leaf)) is not None and now.series and not now.enough
    ]
    if not early:
        return None
    back, job = max(early)
    return Reason(f"too few readings of {job} yet to look back {format_duration(back)}")


def _nothing_happened(leaves: Iterable[Leaf], known: Known) -> Reason | None:
    grown = [
        (leaf.window_s or 0.0, now.growth)
        for leaf in leaves
        if (now := known.leaves.get(leaf)) is not None and now.growth is not None
    ]
    if grown and not any(growth for _, growth in grown):
        longest = format_duration(max(window for window, _ in grown))
        return Reason(f"no request to measure in the last {longest}")
    return None


def _not_yet_recorded(names: Iterable[str], known: Known) -> Reason | None:
    for name in names:
        if name in known.found:
            return Reason("what its recording rules find since their last evaluation comes next")
    return None


def _not_reported(leaves: Iterable[Leaf], known: Known) -> Reason | None:
    for leaf in leaves:
        now = known.leaves.get(leaf)
        if now is None or now.series:
            continue
        if leaf.job == RECONCILER:
            return Reason("the reconciler has not decided anything yet")
        if leaf.job == GPUS:
            return Reason(f"these GPUs do not report {leaf.name}")
        return Reason(f"nothing that is read reports {leaf.name}", wrong=True)
    return None


def _selected(query: str) -> Iterator[Leaf]:
    for found in _SELECTOR.finditer(query):
        if found["name"] in (CLASS_LABEL, CLUSTER_LABEL):
            continue
        window, offset = found["window"], found["offset"]
        yield Leaf(
            found["name"],
            found["select"] or "",
            parse_duration(window) if window else None,
            parse_duration(offset) if offset else None,
        )


def _addresses(targets: Iterable[Scraped]) -> str:
    return ", ".join(sorted({target.address for target in targets}))


def brief(error: str) -> str:
    """The end of a chain of errors: what it comes from."""
    return error.rpartition(": ")[2] or "no reason given"
