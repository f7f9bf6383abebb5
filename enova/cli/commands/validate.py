"""``enova validate``."""

from __future__ import annotations

import json

import click

from enova.cli import options


@click.command("validate", short_help="Check a spec and show every problem at once.")
@options.spec
@options.env
@options.output("text", "json")
def command(spec: str, env: str, output: str) -> int:
    """Check SPEC and show every problem at once, each with its place and what to do.

    Nothing is contacted and nothing is changed. A folder means every stack in it.
    """
    from enova.base.errors import SpecError
    from enova.cli.exits import FAILED, OK
    from enova.workflows.loading import read_all

    try:
        found = read_all(options.source(spec, env), options.environment())
    except SpecError as error:
        if output == "text":
            raise
        click.echo(json.dumps({"valid": False, "problems": [_plain(p) for p in error.problems]}))
        return FAILED
    if output == "json":
        stacks = [{"stack": read.spec.name, "files": list(read.files)} for read in found]
        click.echo(json.dumps({"valid": True, "problems": [], "stacks": stacks}))
        return OK
    for read in found:
        services = ", ".join(sorted(read.spec.services))
        click.echo(f"{read.files[0]}: stack {read.spec.name} is valid ({services}).")
        for note in read.loaded.notes:
            click.echo(f"Note: {note.summary()}", err=True)
    return OK


def _plain(problem: object) -> object:
    from enova.base.digest import plain

    return plain(problem)
