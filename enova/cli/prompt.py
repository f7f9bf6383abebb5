"""Consent. A person is asked; a script that gave no ``--yes`` is refused instead of hung."""

from __future__ import annotations

import sys

import click

from enova.base.errors import Refused


def need_consent_beforehand(*, stdin_spec: bool, output: str) -> None:
    """Raises Refused where a question cannot be asked: without ``--yes`` there is no consent."""
    if stdin_spec:
        raise Refused("A spec from standard input leaves nobody to be asked. Add --yes")
    if output == "json":
        raise Refused("With -o json nobody is asked. Add --yes")
    if not sys.stdin.isatty():
        raise Refused("Consent is needed and nobody can be asked. Add --yes to go without")


def consent(question: str) -> None:
    """Ask yes or no on standard error. Raises Refused for no."""
    if not click.confirm(question, default=False, err=True):
        raise Refused("Not applied: no consent was given")


def consent_by_name(name: str, question: str) -> None:
    """Ask to type a name. Raises Refused when another is typed."""
    typed = click.prompt(question, default="", show_default=False, err=True)
    if typed != name:
        raise Refused(f'Not destroyed: "{typed}" is not "{name}"')
