"""``enova lock``."""

from __future__ import annotations

import json

import click

from enova.cli import options


@click.command("lock", short_help="Resolve choices and write enova.lock.")
@options.spec
@options.env
@options.output("text", "json")
@click.option(
    "--upgrade", is_flag=True, help="Choose anew for every service; ask anew for every image."
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 4 when it is not current.")
def command(spec: str, env: str, output: str, upgrade: bool, check: bool) -> None:
    """Resolve the configuration of every service of SPEC and write it to enova.lock beside it.

    Commit that file: nothing else moves production. Without --upgrade, services keep the choice
    they have as long as the spec asks for the same, and images the digest they have.
    """
    from enova.base.digest import plain
    from enova.cli.views.line import put
    from enova.cli.views.locking import lock_lines
    from enova.workflows.lock import lock

    locked = lock(options.source(spec, env), options.surroundings(), upgrade=upgrade, check=check)
    if output == "json":
        document = {"schema": 1, "path": locked.path, "changed": locked.changed}
        if locked.images:
            document["images"] = plain(locked.images)
            document["images_changed"] = locked.images_changed
        if locked.notes:
            document["notes"] = locked.notes
        click.echo(json.dumps(document))
    else:
        put(lock_lines(locked, written=not check))
