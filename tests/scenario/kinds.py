"""The stacks that the scenarios run on, as data: the same obligations hold for each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from enova.stack.monitoring import ALERTMANAGER, KEYS, NODE_EXPORTER, PROMETHEUS
from tests.parts import real


@dataclass(frozen=True)
class Kind:
    """One kind of stack, and what the scenarios do to it. Services by name, times in seconds."""

    name: str
    services: Mapping[str, dict[str, Any]]
    devices: list[dict[str, Any]]
    monitors: tuple[str, ...]
    """Those that run, sorted by name."""
    rate: float
    """Requests/s over all services that every scenario goes on under."""
    tokens: int
    change: Mapping[str, Any]
    """Engine arguments that make every replica of the first service another one."""
    refused: Mapping[str, Any]
    """Engine arguments with which the engine does not start."""
    refused_because: str
    victims: int
    """Replicas killed at a time."""
    start_s: float
    """Deadline for a replica to start, on a busy machine."""
    long_tokens: int
    """An answer of this length is still on its way when the killer comes."""
    target: str = "process"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The service that scenarios change, kill and scale."""
        return next(iter(self.services))

    @property
    def started_again(self) -> bool:
        """Whether somebody besides the reconciler starts again what was killed."""
        return self.target == "compose"

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images it runs on in containers, as the tests know them."""
        names = {service["engine"]["name"] for service in self.services.values()}
        engines = {"enova" if name == "emulator" else name for name in names}
        return ("envoy", *sorted(engines), *self.monitors)

    def counts(self) -> dict[str, int]:
        return {name: service["scale"]["min"] for name, service in self.services.items()}

    def spec(self, ports: Iterator[int]) -> dict[str, Any]:
        """What the user writes. `ports` are free ones."""
        monitoring: dict[str, Any] = {
            key: "on" if name in self.monitors else "off" for name, key in KEYS.items()
        }
        gateway = next(ports)
        if self.target == "compose" and PROMETHEUS in self.monitors:
            monitoring[KEYS[PROMETHEUS]] = {"enabled": "on", "port": next(ports)}
        return {
            "version": 1,
            "name": self.name,
            "services": dict(self.services),
            "gateway": {"port": gateway},
            "pool": {
                "target": self.target,
                "hosts": [{"name": "local", "devices": self.devices}],
                # The scenarios run it themselves.
                "reconciler": "off",
            },
            "monitoring": {**monitoring, "scrape_interval": "1s"},
            **self.extra,
        }


def _emulated(model: str, least: int, most: int, *, surge: int) -> dict[str, Any]:
    return {
        "model": model,
        "engine": {"name": "emulator", "args": {"max-num-seqs": 2}},
        "traffic": {"peak": f"{least / 2}/s", "input_tokens": 32, "output_tokens": 16},
        "scale": {"min": least, "max": most, "hold": "3s"},
        "rollout": {"surge": surge, "drain_timeout": "10s"},
    }


_LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
_QWEN = "Qwen/Qwen2.5-7B-Instruct"

_EMULATED: dict[str, Any] = {
    # Slow GPUs and two requests at a time: a load that any machine can make is one they feel.
    "devices": [{"gpu": "l4-24gb", "count": 26}],
    "tokens": 16,
    "change": {"max-num-batched-tokens": 4096},
    "refused": {"refuse-start": "the weights of this model are cursed"},
    "refused_because": "the weights of this model are cursed",
    "start_s": 30.0,
    "long_tokens": 100,
}

TWENTY = Kind(
    name="twenty",
    services={
        "chat": _emulated(_LLAMA, 12, 14, surge=4),
        "code": _emulated(_QWEN, 8, 8, surge=4),
    },
    monitors=(),
    rate=10.0,
    victims=3,
    **_EMULATED,
)
"""Twenty emulated replicas of two services, without a Prometheus."""

FEW = Kind(
    name="few",
    services={"chat": _emulated(_LLAMA, 2, 4, surge=1)},
    monitors=(PROMETHEUS,),
    rate=3.0,
    victims=1,
    **_EMULATED,
)
"""Two emulated replicas, watched by a real Prometheus."""

FEW_CONTAINERS = replace(FEW, name="fewbox", target="compose")
"""The same in containers."""


def _as_map(words: Sequence[str]) -> dict[str, Any]:
    """Command-line words as the spec writes them."""
    found: dict[str, Any] = {}
    for word, following in zip(words, (*words[1:], "--"), strict=True):
        if word.startswith("--"):
            value = int(following) if following.isdigit() else following
            found[word.removeprefix("--")] = True if following.startswith("--") else value
    return found


def real_engines(model: Path, program: Path) -> Kind:
    """Two real vLLM replicas of the small model, on the processor."""
    return _real(model, {"executable": str(program)})


def real_containers(model: Path) -> Kind:
    """The same in containers, with all the monitors whose images are here."""
    kind = _real(model, {})
    return replace(
        kind,
        name="boxes",
        target="compose",
        monitors=(ALERTMANAGER, NODE_EXPORTER, PROMETHEUS),
        # Reading the image for the first time takes a minute.
        start_s=180.0,
    )


def _real(model: Path, engine: Mapping[str, Any]) -> Kind:
    service = {
        "model": str(model),
        "engine": {
            "name": "vllm",
            **engine,
            "args": _as_map(real.VLLM_ARGUMENTS),
            "env": dict(real.VLLM_ENVIRONMENT),
        },
        "traffic": {"peak": "5/s", "input_tokens": 32, "output_tokens": 16},
        "goals": {"e2e": "500ms"},
        "scale": {"min": 2, "max": 3, "hold": "5s"},
        "rollout": {"surge": 1, "drain_timeout": "20s"},
    }
    return Kind(
        name="real",
        services={"chat": service},
        # More than this machine has: the engines share what there is.
        devices=[{"cpu": {"cores": 8, "memory": "16GiB"}}],
        monitors=(PROMETHEUS,),
        rate=5.0,
        tokens=16,
        change={"max-num-batched-tokens": 1024},
        refused={"load-format": "nonsense"},
        refused_because="Load format `nonsense` is not supported",
        victims=1,
        start_s=90.0,
        long_tokens=600,
    )
