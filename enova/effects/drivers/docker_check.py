"""Whether the compose target can be used here, without a stack: what ``enova doctor`` asks.

In: environment variables. Out: what Docker and its Compose plugin say of themselves, or the reason
why not, in the words that a plan would fail with. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enova.base.errors import Refused, Unreachable
from enova.effects.drivers import docker_call
from enova.effects.drivers.docker_engine import Engine


@dataclass(frozen=True)
class Found:
    """``engine`` and ``compose`` say what is there, ``problem`` and ``remedy`` why not.

    A problem's text is a reason, and what to do about it after the first sentence.
    """

    engine: str = ""
    compose: str = ""
    gpus: bool = False
    problem: str = ""
    remedy: str = ""


def look(surroundings: Mapping[str, str]) -> Found:
    """What is there of Docker."""
    engine = Engine(surroundings)
    try:
        about = engine.about
        version = docker_call.compose_version(surroundings)
    except (Refused, Unreachable) as error:
        problem, _, remedy = str(error).partition(". ")
        return Found(problem=problem, remedy=remedy)
    said = f"{about.version} (API {about.api}) at {engine.socket}"
    if version is None:
        problem, _, remedy = docker_call.NO_COMPOSE.partition(". ")
        return Found(engine=said, gpus=about.gpus, problem=problem, remedy=remedy)
    return Found(engine=said, compose=version, gpus=about.gpus)
