"""``enova mon``."""

from __future__ import annotations

from typing import Literal

import click

from enova.cli import options


@click.command("status", short_help="Show its parts, what they read, and alerts.")
@options.target
@options.env
@options.output("text", "json")
def status(target: str, env: str, output: str) -> int:
    """Show the parts of the monitoring, what Prometheus reads, alerts, and the way to Grafana.

    Exits with 1 when a part that should run does not. Alerts that fire leave 0.
    """
    from enova.cli.exits import FAILED, OK
    from enova.cli.views.monitoring import put_mon_status
    from enova.workflows.mon import mon_status
    from enova.workflows.wiring import open_named

    now = mon_status(open_named(options.surroundings(), target, env=env))
    put_mon_status(now, output)
    return OK if now.well else FAILED


@click.command("check", short_help="Ask every panel, rule and alert, and say what is empty.")
@options.target
@options.env
@options.output("text", "json")
@options.verbose
def check(target: str, env: str, output: str, verbose: bool) -> int:
    """Send the query of every dashboard panel, recording rule and alert to the running Prometheus.

    Says which find nothing and why. Exits with 1 when one is empty without a good reason, is
    refused, or has a value that cannot be.
    """
    from enova.cli.exits import FAILED, OK
    from enova.cli.views.monitoring import put_mon_check
    from enova.workflows.mon_check import mon_check
    from enova.workflows.wiring import open_named

    checked = mon_check(open_named(options.surroundings(), target, env=env))
    put_mon_check(checked, output, verbose=verbose)
    return OK if checked.well else FAILED


@click.command("start", short_help="Start it again after a stop.")
@options.target
@options.env
@options.yes
@options.wait
@options.output("text", "json")
def start(target: str, env: str, yes: bool, wait_s: float, output: str) -> int:
    """Start what the applied spec asks for of the monitoring, and have it run from now on."""
    return _switch("start", target, env, yes=yes, wait_s=wait_s, output=output)


@click.command("stop", short_help="Stop it until it is started again.")
@options.target
@options.env
@options.yes
@options.wait
@options.output("text", "json")
def stop(target: str, env: str, yes: bool, wait_s: float, output: str) -> int:
    """Stop the monitoring. It stays stopped, also over an apply, until `enova mon start`.

    What Prometheus has stored is kept. Without it the reconciler reads engines and gateway itself.
    """
    return _switch("stop", target, env, yes=yes, wait_s=wait_s, output=output)


@click.group(
    "mon",
    commands=[status, check, start, stop],
    short_help="Look after the monitoring part: status, start, stop, check.",
)
def command() -> None:
    """Look after the monitoring part alone. Services and gateway are never touched."""


def _switch(
    switch: Literal["start", "stop"],
    target: str,
    env: str,
    *,
    yes: bool,
    wait_s: float,
    output: str,
) -> int:
    """Plan it, show it, ask, carry it out."""
    from enova.cli.carrying import carry_out_and_report, report_nothing_to_do
    from enova.cli.prompt import consent, need_consent_beforehand
    from enova.cli.views.plan import put_plan
    from enova.workflows.mon import plan_switch
    from enova.workflows.wiring import open_named

    here = open_named(options.surroundings(), target, env=env)
    made = plan_switch(here, switch)
    if output == "text":
        put_plan(made, "text")
    if made.is_empty:
        return report_nothing_to_do(made, output)
    if not yes:
        need_consent_beforehand(stdin_spec=target == "-", output=output)
        consent(f"{switch.capitalize()} the monitoring of {made.stack}?")
    return carry_out_and_report(
        made,
        here,
        command=f"enova mon {switch}",
        again=options.again(f"enova mon {switch}", made.stack, made.env),
        output=output,
        wait_s=wait_s,
    )
