"""``enova destroy``."""

from __future__ import annotations

import click

from enova.cli import options


@click.command("destroy", short_help="Stop everything of a stack and remove its files.")
@options.target
@options.env
@options.yes
@options.wait
@options.output("text", "json")
@click.option(
    "--models", is_flag=True, help="Also remove the volume of downloaded models (target compose)."
)
def command(target: str, env: str, yes: bool, wait_s: float, output: str, models: bool) -> int:
    """Stop everything of a stack and remove its files. The journal stays.

    Open requests are given time to end. Without --yes the stack's name must be typed.
    """
    from enova.cli.carrying import carry_out_and_report, report_nothing_to_do
    from enova.cli.prompt import consent_by_name, need_consent_beforehand
    from enova.cli.views.plan import put_plan
    from enova.workflows.apply import refuse_guards
    from enova.workflows.destroy import plan_destroy
    from enova.workflows.wiring import open_named

    here = open_named(options.surroundings(), target, env=env)
    made = plan_destroy(here, models=models)
    if output == "text":
        put_plan(made, "text")
    if made.is_empty:
        return report_nothing_to_do(made, output)
    refuse_guards(made)
    if not yes:
        need_consent_beforehand(stdin_spec=target == "-", output=output)
        consent_by_name(made.stack, f"Type {made.stack} to destroy it")
    return carry_out_and_report(
        made,
        here,
        command="enova destroy",
        again=options.again("enova destroy", made.stack, made.env),
        output=output,
        wait_s=wait_s,
    )
