"""``enova rollback``."""

from __future__ import annotations

import click

from enova.cli import options


@click.command("rollback", short_help="Go back to an earlier applied state.")
@options.target
@options.env
@options.yes
@options.wait
@options.output("text", "json")
@click.option("--to", "serial", type=int, help="Apply to go back to; left out, the one before.")
@click.option("--list", "only_list", is_flag=True, help="Show the history and change nothing.")
def command(
    target: str,
    env: str,
    yes: bool,
    wait: str,
    output: str,
    serial: int | None,
    only_list: bool,
) -> int:
    """Go back to an earlier applied state, replacing replicas as apply does.

    The spec file is not touched: until it is changed too, `enova plan` shows the difference.
    """
    from enova.base.units import parse_duration
    from enova.cli.carrying import carry_out_and_report
    from enova.cli.exits import OK
    from enova.cli.prompt import consent
    from enova.cli.views.history import history_lines
    from enova.cli.views.line import put
    from enova.cli.views.plan import put_plan
    from enova.workflows.apply import refuse_guards
    from enova.workflows.rollback import history, plan_rollback
    from enova.workflows.wiring import open_named

    here = open_named(options.surroundings(), target, env=env)
    if output == "text":
        put(history_lines(history(here)))
    if only_list:
        return OK
    going = plan_rollback(here, serial=serial)
    if output == "text":
        put_plan(going.plan, "text")
    if going.plan.is_empty:
        return OK
    refuse_guards(going.plan)
    if not yes:
        consent(f"Go back to apply {going.to.serial}?")
    return carry_out_and_report(
        going.plan, here, command="enova rollback", output=output, wait_s=parse_duration(wait)
    )
