"""``enova status``."""

from __future__ import annotations

import click

from enova.cli import options


@click.command("status", short_help="Show what runs, how it does and what was decided.")
@options.target
@options.env
@options.output("text", "json")
@click.option("-w", "--watch", is_flag=True, help="Look again until interrupted.")
@click.option(
    "--interval",
    "interval_s",
    callback=options.seconds,
    default="2s",
    show_default=True,
    metavar="TIME",
    help="Time between two looks of --watch.",
)
def command(target: str, env: str, output: str, watch: bool, interval_s: float) -> None:
    """Show what runs, how it does, who may change it and what was decided last."""
    from enova.cli.views.status import status_view
    from enova.services.reconciler.sources import SignalReader
    from enova.workflows.status import status
    from enova.workflows.wiring import open_named

    here = open_named(options.surroundings(), target, env=env)
    signals = SignalReader(here)
    with status_view(output, here.state.stack, here.state.env, live=watch) as show:
        show(status(here, signals.read))
        while watch:
            here.clock.sleep(interval_s)
            show(status(here, signals.read))
