"""``enova doctor``."""

from __future__ import annotations

import click

from enova.cli import options


@click.command("doctor", short_help="Check this machine and say what to fix.")
@options.output("text", "json")
def command(output: str) -> int:
    """Check this machine and say what to fix. Changes nothing.

    Exits with 1 when something makes the embedded default impossible; warnings leave 0.
    """
    from enova.cli.exits import FAILED, OK
    from enova.cli.views.checks import put_checks
    from enova.workflows.doctor import doctor

    checks = doctor(options.surroundings())
    put_checks(checks, output)
    return FAILED if any(check.verdict == "fail" for check in checks) else OK
