"""``enova render``."""

from __future__ import annotations

from pathlib import Path

import click

from enova.cli import options


@click.command("render", short_help="Write the files a plan would use, to read or to keep.")
@options.spec
@options.env
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Where to write.")
@click.option("--force", is_flag=True, help="Write into a folder that is not empty.")
@options.output("text", "json")
def command(spec: str, env: str, out: str, force: bool, output: str) -> None:
    """Write the files that SPEC, or a saved plan, would use: the gateway's configuration and
    members, those of the monitors, engine commands, a systemd unit for `enova reconcile`, and the
    plan itself; on the compose target a folder in which `docker compose up -d` runs the stack.
    Nothing secret is in them, nothing is changed by it.
    """
    import json

    from enova.workflows import apply as applying
    from enova.workflows.plan import plan
    from enova.workflows.render import render, write_files

    surroundings = options.surroundings()
    if spec.endswith(".json"):
        made = applying.read_saved(spec)
        here = applying.site_of(made, surroundings)
    else:
        planned = plan(options.source(spec, env), surroundings)
        made, here = planned.plan, planned.site
    files = render(made, here)
    write_files(files, Path(out), force=force)
    if output == "json":
        click.echo(json.dumps({"schema": 1, "folder": out, "files": list(files)}))
        return
    for name in files:
        click.echo(str(Path(out) / name))
