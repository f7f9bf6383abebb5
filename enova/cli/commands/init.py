"""``enova init``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("init", short_help="Write a spec to start from.")
@click.argument("file", default="chat.enova.yaml", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Write over a file that exists.")
def command(file: str, force: bool) -> None:
    """Write a spec to start from to FILE, and its JSON Schema beside it for your editor."""
    from enova.base.errors import Refused
    from enova.spec.schema import json_schema
    from enova.spec.starter import starter

    path = Path(file)
    if path.exists() and not force:
        raise Refused(f"{path} exists. Choose another name, or --force to write over it")
    schema = path.with_name("enova.schema.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(starter(f"./{schema.name}"), encoding="utf-8")
    schema.write_text(json.dumps(json_schema(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    click.echo(f"Wrote {path} and {schema}.", err=True)
    click.echo(f"Edit the model, the traffic and the goals, then: enova plan {path}", err=True)
