"""``enova logs``."""

from __future__ import annotations

import click

from enova.cli import options


@click.command("logs", short_help="Print the log of a replica or of the gateway.")
@click.argument("address")
@options.target
@options.env
@click.option("-n", "--tail", default=100, show_default=True, help="Begin with this many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written.")
def command(address: str, target: str, env: str, tail: int, follow: bool) -> None:
    """Print the log of ADDRESS, for example chat/replica/0 or gateway."""
    from enova.workflows.logs import logs
    from enova.workflows.wiring import open_named

    here = open_named(options.surroundings(), target, env=env)
    for line in logs(here, address, tail=tail, follow=follow):
        click.echo(line)
