"""``enova schema``."""

from __future__ import annotations

import json

import click


@click.command("schema", short_help="Print the JSON Schema of the spec.")
@click.option("--plan", "of_plan", is_flag=True, help="The schema of a saved plan instead.")
def command(of_plan: bool) -> None:
    """Print the JSON Schema of the spec, for editors and checks."""
    if of_plan:
        from enova.stack.document import plan_schema

        click.echo(json.dumps(plan_schema(), indent=2, sort_keys=True))
        return
    from enova.spec.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2, sort_keys=True))
