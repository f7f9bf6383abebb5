"""Arguments and options that mean the same in every verb, and what a verb works in.

A caller of ``code_of`` (a test, a notebook) may hand in its own ``Surroundings``; otherwise they
are those of this process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from enova.workflows.loading import FOLDER, STDIN, Source

if TYPE_CHECKING:
    from enova.workflows.wiring import Surroundings

F = TypeVar("F", bound=Callable[..., Any])


def seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """A time as in a spec, ``30s`` or ``5m``, as seconds."""
    from enova.base.units import parse_duration

    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


env = click.option(
    "--env", default="", metavar="NAME", help="Lay SPEC's overlay for this environment over it."
)
spec = click.argument("spec", default=FOLDER, metavar="[SPEC]")
target = click.argument("target", default=FOLDER, metavar="[SPEC|STACK]")
yes = click.option("--yes", "--auto-approve", "yes", is_flag=True, help="Do not ask for consent.")
wait = click.option(
    "--wait",
    "wait_s",
    callback=seconds,
    default="30s",
    metavar="TIME",
    show_default=True,
    help="Wait this long for the lease.",
)
verbose = click.option("-v", "--verbose", is_flag=True, help="Show everything.")


def output(*formats: str) -> Callable[[F], F]:
    """``-o``: how the result is printed."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default="text",
        show_default=True,
        help="How to print the result.",
    )


def source(path: str, env_name: str) -> Source:
    """The spec a user named; ``-`` reads standard input now."""
    if path == STDIN:
        return Source(path, env_name, sys.stdin.read())
    return Source(path, env_name)


def surroundings() -> Surroundings:
    """What the verb works in: handed in by the caller, else this process's own."""
    from enova.workflows.wiring import Surroundings

    given = click.get_current_context().find_root().obj
    return given if isinstance(given, Surroundings) else Surroundings.here()


def environment() -> Mapping[str, str]:
    """The environment variables alone, for verbs that must start quickly."""
    given = click.get_current_context().find_root().obj
    return os.environ if given is None else surroundings().environment


def again(verb: str, subject: str, env_name: str) -> str:
    """What to type to run a verb again, "" when its spec came from standard input."""
    if subject == STDIN:
        return ""
    words = [verb, subject, f"--env {env_name}" if env_name else ""]
    return " ".join(word for word in words if word)
