"""``enova diff``."""

from __future__ import annotations

import click

from enova.cli import options


@click.command("diff", short_help="Show drift: how what runs differs from what was asked for.")
@options.spec
@options.env
@options.output("text", "json", "markdown")
@options.verbose
def command(spec: str, env: str, output: str, verbose: bool) -> int:
    """Show how what runs differs from SPEC and from what was last applied.

    Exits with 0 when nothing differs, 2 when something does, 1 when it could not be seen.
    """
    from enova.base.errors import Unreachable
    from enova.cli.exits import DIFFERENT, OK
    from enova.cli.views.plan import put_plan
    from enova.workflows.plan import plan, without_recommendation

    planned = without_recommendation(plan(options.source(spec, env), options.surroundings()))
    unknown = ", ".join(planned.unreachable_hosts)
    if not (unknown and planned.plan.is_empty):
        # An empty plan would say that all is as asked for, which nobody knows.
        put_plan(planned.plan, output, verbose=verbose)
    if unknown:
        raise Unreachable(f"{unknown} did not answer: what runs there is unknown")
    return OK if planned.plan.is_empty else DIFFERENT
