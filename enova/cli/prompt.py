"""Consent. A person is asked; a script that gave no ``--yes`` is refused instead of hung."""

from __future__ import annotations

import sys

import click

from enova.base.errors import Refused


def consent(question: str) -> None:
    """Ask yes or no on standard error. Raises Refused for no, and when nobody can answer."""
    _need_terminal()
    if not click.confirm(question, default=False, err=True):
        raise Refused("Not applied: no consent was given")


def consent_by_name(name: str, question: str) -> None:
    """Ask to type a name. Raises Refused when another is typed, and when nobody can answer."""
    _need_terminal()
    typed = click.prompt(question, default="", show_default=False, err=True)
    if typed != name:
        raise Refused(f'Not destroyed: "{typed}" is not "{name}"')


def _need_terminal() -> None:
    if not sys.stdin.isatty():
        raise Refused("Consent is needed and nobody can be asked. Add --yes to go without")
