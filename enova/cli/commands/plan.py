"""``enova plan``."""

from __future__ import annotations

from pathlib import Path

import click

from enova.cli import options


@click.command("plan", short_help="Show what would change, why, and what it would do and cost.")
@options.spec
@options.env
@options.output("text", "json", "markdown")
@options.verbose
@click.option("--save", type=click.Path(dir_okay=False), help="Also write the plan to a file.")
@click.option("--locked", is_flag=True, help="Fail unless enova.lock answers for every service.")
@click.option("--exit-code", "tell", is_flag=True, help="Exit with 2 when there are changes.")
def command(
    spec: str, env: str, output: str, verbose: bool, save: str | None, locked: bool, tell: bool
) -> int:
    """Show what would change, why, and what it would do and cost. Changes nothing."""
    from enova.cli.exits import DIFFERENT, OK
    from enova.cli.views.plan import put_plan
    from enova.stack.document import plan_to_json
    from enova.workflows.plan import plan

    planned = plan(options.source(spec, env), options.surroundings(), locked=locked)
    put_plan(planned.plan, output, verbose=verbose)
    if planned.unreachable_hosts:
        hosts = ", ".join(planned.unreachable_hosts)
        click.echo(f"Warning: {hosts} did not answer: what runs there is unknown", err=True)
    if save is not None:
        Path(save).write_text(plan_to_json(planned.plan), encoding="utf-8")
        click.echo(f"Apply exactly this with: enova apply {save}", err=True)
    return DIFFERENT if tell and not planned.plan.is_empty else OK
