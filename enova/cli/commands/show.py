"""``enova show``."""

from __future__ import annotations

import click

from enova.cli import options


@click.command("show", short_help="Print a saved plan.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@options.output("text", "json", "markdown")
@options.verbose
def command(file: str, output: str, verbose: bool) -> None:
    """Print the plan saved in FILE, stale or not."""
    from enova.base.errors import Refused
    from enova.cli.views.plan import put_plan
    from enova.workflows.apply import check_files, read_saved

    saved = read_saved(file)
    put_plan(saved, output, verbose=verbose)
    try:
        check_files(saved, options.surroundings())
    except Refused as stale:
        click.echo(f"Warning: {stale}", err=True)
