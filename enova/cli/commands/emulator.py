"""``enova emulator``: a stand-in for a vLLM server. Its arguments are the service's own."""

from __future__ import annotations

import click


@click.command(
    name="emulator",
    short_help="Run a stand-in for a vLLM server, without a GPU.",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Run a stand-in for a vLLM server, without a GPU: see ``enova emulator --help``."""
    from enova.services.emulator.process import run

    context.exit(run(arguments))
