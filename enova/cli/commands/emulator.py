"""``enova emulator``: its arguments are the service's own, spelled as vLLM spells them."""

from __future__ import annotations

import click


@click.command(
    name="emulator",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Run an emulated engine with vLLM's HTTP surface."""
    from enova.services.emulator.process import run

    context.exit(run(arguments))
