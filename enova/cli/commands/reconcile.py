"""``enova reconcile``."""

from __future__ import annotations

import click

from enova.cli import options


@click.command("reconcile", short_help="Keep a stack at its spec: scale, heal, explain.")
@options.target
@options.env
@options.output("text", "json")
@click.option("--once", is_flag=True, help="One look, then leave.")
@click.option(
    "--interval",
    "interval_s",
    callback=options.seconds,
    default="5s",
    show_default=True,
    metavar="TIME",
    help="Time between two looks.",
)
@options.verbose
def command(
    target: str, env: str, output: str, once: bool, interval_s: float, verbose: bool
) -> int:
    """Keep a stack at what was last applied: replace what died, follow the traffic.

    Runs until interrupted, or until the stack is destroyed. Prints a line whenever something is
    decided or done; with -v a line every look.
    """
    from enova.base.errors import Refused
    from enova.cli.carrying import stopping_on_signals
    from enova.cli.exits import FAILED, OK
    from enova.cli.views.reconciling import Reconciling
    from enova.effects.stop import StopFlag
    from enova.services.reconciler import loop
    from enova.services.reconciler.announced import announced
    from enova.services.reconciler.sources import SignalReader
    from enova.workflows.wiring import open_named

    surroundings, stop = options.surroundings(), StopFlag()
    here = open_named(surroundings, target, env=env)
    if here.state.read().document is None:
        with stopping_on_signals(stop) as begun:
            begun()
            applied = not once and loop.await_applied(here, stop=stop, interval_s=interval_s)
        if stop.requested:
            return OK
        if not applied:
            raise Refused(f"{here.state.stack} is not applied. Run: enova apply")
        here = open_named(surroundings, target, env=env)
    view = Reconciling(output, clock=here.clock, verbose=verbose)
    parts = loop.Parts(
        signals=SignalReader(here),
        emit=view.event,
        tell=view.report,
        housekeeping=here.driver.tend,
    )
    with stopping_on_signals(stop) as begun:
        begun()
        if once:
            report = loop.once(here, parts, stop=stop)
            view.report(report)
            return FAILED if report.problem else OK
        with announced(here, parts, interval_s=interval_s) as shown:
            loop.run(here, shown, stop=stop, interval_s=interval_s)
    return OK
