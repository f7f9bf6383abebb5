"""``enova``: the list of verbs. Each verb's module is imported only when it is the one called.

The one-line helps stand here so that ``enova --help`` imports no verb; a test holds them equal to
the verbs' own.
"""

from __future__ import annotations

import gc
import importlib

import click

from enova import __version__
from enova.cli import plugins

VERBS: dict[str, str] = {
    "init": "Write a spec to start from.",
    "validate": "Check a spec and show every problem at once.",
    "explain": "Explain a problem code, a field of the spec, or GPU types.",
    "plan": "Show what would change, why, and what it would do and cost.",
    "show": "Print a saved plan.",
    "apply": "Make it so: a spec, or exactly a saved plan.",
    "diff": "Show drift: how what runs differs from what was asked for.",
    "status": "Show what runs, how it does and what was decided.",
    "logs": "Print the log of a replica or of the gateway.",
    "rollback": "Go back to an earlier applied state.",
    "lock": "Resolve choices and write enova.lock.",
    "mon": "Look after the monitoring part: status, start, stop, check.",
    "reconcile": "Keep a stack at its spec: scale, heal, explain.",
    "destroy": "Stop everything of a stack and remove its files.",
    "render": "Write the files a plan would use, to read or to keep.",
    "schema": "Print the JSON Schema of the spec.",
    "doctor": "Check this machine and say what to fix.",
    "emulator": "Run an emulated engine with vLLM's HTTP surface.",
}

COLLECT_AFTER = 50_000
"""New objects between two garbage collections."""


class Verbs(click.Group):
    """A group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        plugins.leave_out()
        module = importlib.import_module(f"enova.cli.commands.{cmd_name}")
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.command is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and name not in VERBS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, VERBS, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            ctx.fail(f'No such command "{name}".{hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="First steps: enova init chat.enova.yaml, then enova plan chat.enova.yaml",
)
@click.version_option(__version__, prog_name="enova")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="Whether to colour. auto: on a terminal, unless NO_COLOR is set.",
)
@click.pass_context
def main(context: click.Context, color: str) -> None:
    """Infrastructure as code for LLM serving."""
    context.color = {"auto": None, "always": True, "never": False}[color]


def run() -> None:
    """The console script: run a verb and leave with its exit code."""
    # Start-up makes many objects and no rubbish: collecting meanwhile is a tenth of its time.
    gc.set_threshold(COLLECT_AFTER)
    from enova.cli.exits import leave

    leave(main)
