"""The last samples of every engine and of the gateway, bounded, in memory and in one file.

In: samples as they are read. Out: those of the last window, oldest first. The file lets a process
that looks only once (``reconcile --once``) compute rates against the look before. Losing it costs
one look, so it is replaced atomically but not forced to the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from enova.effects.sources.samples import EngineSample, GatewaySample, HistogramCounts

VERSION = 1
MOST_SAMPLES = 128
"""Per target, whatever the window: of more, the oldest go."""

S = TypeVar("S", EngineSample, GatewaySample)


@dataclass(frozen=True)
class Arrivals:
    """Since when a service's arrivals are watched without a gap, and when one was last seen."""

    watched_since_s: float
    last_s: float


class SampleRing:
    """Samples by instance id and by service. ``path`` None keeps them in memory only.

    Kept are those of the last ``window_s`` and the newest one before, if not over ``keep_s`` old.
    """

    def __init__(self, path: Path | None, *, window_s: float, keep_s: float) -> None:
        self._path = path
        self._window_s = window_s
        self._keep_s = keep_s
        self.engines: dict[str, tuple[EngineSample, ...]] = {}
        self.gateway: dict[str, tuple[GatewaySample, ...]] = {}
        self.arrivals: dict[str, Arrivals] = {}
        if path is not None:
            self._load(path)

    def add_engine(self, instance_id: str, sample: EngineSample) -> None:
        """Remember one engine's sample."""
        self.engines[instance_id] = self._with(self.engines.get(instance_id, ()), sample)

    def add_gateway(self, service: str, sample: GatewaySample) -> None:
        """Remember one service's counters, and whether a request arrived since the last ones.

        Counters that began anew say nothing of the time in between, when there was no gateway: a
        rate across it would be too low.
        """
        before = [s for s in self.gateway.get(service, ()) if s.at_s <= sample.at_s]
        known = self.arrivals.get(service)
        last = before[-1] if before else None
        if last is not None and last.origin != sample.origin:
            last = GatewaySample(last.at_s, 0.0, 0.0, 0.0, 0.0, sample.origin)
            before = []
        elif last is not None and sample.attempts < last.attempts:
            before = []
        self.gateway[service] = self._with(before, sample)
        if known is None or last is None or sample.at_s - last.at_s > self._keep_s:
            # What happened while nobody looked is not known: idle time starts over.
            self.arrivals[service] = Arrivals(sample.at_s, sample.at_s)
        elif sample.attempts != last.attempts:
            self.arrivals[service] = Arrivals(known.watched_since_s, sample.at_s)

    def keep_only(self, instances: Collection[str], services: Collection[str]) -> None:
        """Forget targets that are gone."""
        self.engines = {k: v for k, v in self.engines.items() if k in instances}
        self.gateway = {k: v for k, v in self.gateway.items() if k in services}
        self.arrivals = {k: v for k, v in self.arrivals.items() if k in services}

    def save(self) -> None:
        """Write the file, if there is one. Raises OSError."""
        if self._path is None:
            return
        document = {
            "version": VERSION,
            "engines": {k: [asdict(s) for s in v] for k, v in sorted(self.engines.items())},
            "gateway": {k: [asdict(s) for s in v] for k, v in sorted(self.gateway.items())},
            "arrivals": {k: asdict(v) for k, v in sorted(self.arrivals.items())},
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            # Python writes and reads the infinite edge of histograms as Infinity.
            temporary.write_text(json.dumps(document))
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def _with(self, samples: Iterable[S], sample: S) -> tuple[S, ...]:
        """``samples`` and the new one, without those too old, from the future, or too many."""
        kept = [s for s in samples if sample.at_s - self._keep_s <= s.at_s < sample.at_s]
        older = sum(1 for s in kept if s.at_s < sample.at_s - self._window_s)
        kept.append(sample)
        return tuple(kept[max(0, older - 1) :][-MOST_SAMPLES:])

    def _load(self, path: Path) -> None:
        """Take what the file holds; one that cannot be read or is of another version, nothing."""
        try:
            document = json.loads(path.read_text())
            if document["version"] != VERSION:
                return
            engines = _samples(document["engines"], _engine)
            gateway = _samples(document["gateway"], lambda raw: GatewaySample(**raw))
            arrivals = {k: Arrivals(**v) for k, v in document["arrivals"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        self.engines, self.gateway, self.arrivals = engines, gateway, arrivals


def _samples(
    raw: Mapping[str, Iterable[Mapping[str, Any]]], make: Callable[[Mapping[str, Any]], S]
) -> dict[str, tuple[S, ...]]:
    return {key: tuple(make(entry) for entry in entries) for key, entries in raw.items()}


def _engine(raw: Mapping[str, Any]) -> EngineSample:
    values = dict(raw)
    for what in ("ttft", "itl", "e2e"):
        found = values.get(what)
        if found is not None:
            values[what] = HistogramCounts(tuple(found["edges"]), tuple(found["counts"]))
    return EngineSample(**values)
