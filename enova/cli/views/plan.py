"""A plan in the format asked for, on standard output."""

from __future__ import annotations

import click

from enova.stack.plan import Plan


def put_plan(plan: Plan, output: str, *, verbose: bool = False) -> None:
    """Print a plan as ``text``, ``json`` or ``markdown``."""
    if output == "json":
        from enova.stack.document import plan_to_json

        click.echo(plan_to_json(plan), nl=False)
    elif output == "markdown":
        from enova.cli.views.plan_markdown import plan_markdown

        click.echo(plan_markdown(plan), nl=False)
    else:
        from enova.cli.views.line import put
        from enova.cli.views.plan_text import plan_lines

        put(plan_lines(plan, verbose=verbose))
