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
    wait_s: float,
    output: str,
    serial: int | None,
    only_list: bool,
) -> int:
    """Go back to an earlier applied state, replacing replicas as apply does.

    The spec file is not touched: until it is changed too, `enova plan` shows the difference.
    """
    from enova.cli.carrying import carry_out_and_report, report_nothing_to_do
    from enova.cli.exits import OK
    from enova.cli.prompt import consent, need_consent_beforehand
    from enova.cli.views.history import put_history
    from enova.cli.views.plan import put_plan
    from enova.workflows.apply import refuse_guards
    from enova.workflows.rollback import history, plan_rollback
    from enova.workflows.wiring import open_named

    here = open_named(options.surroundings(), target, env=env)
    if only_list or output == "text":
        put_history(history(here), output)
    if only_list:
        return OK
    going = plan_rollback(here, serial=serial)
    if output == "text":
        put_plan(going.plan, "text")
    if going.plan.is_empty:
        return report_nothing_to_do(going.plan, output)
    refuse_guards(going.plan)
    if not yes:
        need_consent_beforehand(stdin_spec=target == "-", output=output)
        consent(f"Go back to apply {going.to.serial}?")
    return carry_out_and_report(
        going.plan,
        here,
        command="enova rollback",
        again=options.again(f"enova rollback --to {going.to.serial}", here.state.stack, env),
        output=output,
        wait_s=wait_s,
    )
