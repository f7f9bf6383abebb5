"""``enova explain``."""

from __future__ import annotations

import click


@click.command("explain", short_help="Explain a problem code, a field of the spec, or GPU types.")
@click.argument("subject", default="", metavar="[CODE|FIELD|gpus|reasons|signals|codes]")
def command(subject: str) -> None:
    """Explain a problem code (E107), a field of the spec (goals.ttft), or one of the lists.

    Without an argument: what can be explained.
    """
    from enova.base.errors import SpecError
    from enova.workflows.explain import explain

    try:
        click.echo(explain(subject))
    except SpecError as error:
        problem = error.problems[0]
        hint = f" {problem.hint}" if problem.hint.endswith("?") else f" ({problem.hint})"
        raise click.UsageError(f"{problem.message}.{hint}") from error
