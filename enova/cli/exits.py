"""The one place where exceptions become exit codes and text on standard error.

0 fine; 1 failed; 2 differences exist; 3 no configuration meets the goals; 4 refused; 64 wrong
usage; 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import click

from enova import __version__
from enova.base.errors import ActionFailed, Bug, EnovaError, Infeasible, Refused, SpecError

if TYPE_CHECKING:
    from enova.workflows.wiring import Surroundings

OK = 0
FAILED = 1
DIFFERENT = 2
INFEASIBLE = 3
REFUSED = 4
USAGE = 64
INTERRUPTED = 130


def leave(command: click.Command) -> None:
    """Run ``command`` on the process's arguments and exit with the right code."""
    code = code_of(command, None)
    # The interpreter would look at every object once more before it ends.
    gc.freeze()
    sys.exit(code)


def code_of(
    command: click.Command,
    args: list[str] | None,
    *,
    surroundings: Surroundings | None = None,
) -> int:
    """Run ``command`` and return its exit code; every error is printed here.

    ``surroundings`` replace this process's own environment, clock and drivers.
    """
    try:
        result = command.main(args=args, prog_name="enova", standalone_mode=False, obj=surroundings)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        error.show(sys.stderr)
        return USAGE
    except click.ClickException as error:
        error.show(sys.stderr)
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except SpecError as error:
        from enova.base.problems import render_problems

        print(render_problems(error.problems), file=sys.stderr)
        return FAILED
    except EnovaError as error:
        print(_sentence(error), file=sys.stderr)
        return _code(error)
    except BrokenPipeError:
        # The reader left, as in `enova logs | head`; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # noqa: BLE001  # the last resort: a report instead of a traceback
        print(f"This is a bug in enova: {error!r}\nReport: {_report()}", file=sys.stderr)
        return FAILED
    return result if isinstance(result, int) else OK


def _code(error: EnovaError) -> int:
    if isinstance(error, Infeasible):
        return INFEASIBLE
    return REFUSED if isinstance(error, Refused) else FAILED


def _sentence(error: EnovaError) -> str:
    text = str(error)
    if isinstance(error, ActionFailed) and error.log_tail:
        tail = "\n".join(f"    {line}" for line in error.log_tail)
        text = f"{text}\n  last log lines:\n{tail}"
    if isinstance(error, Bug):
        text = f"This is a bug in enova: {text}\nReport: {_report()}"
    return text


def _report() -> str:
    """Write what happened to a file the user can attach, and return its path."""
    import tempfile
    import traceback

    handle, name = tempfile.mkstemp(prefix="enova-report-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"enova {__version__}, python {sys.version}\n{traceback.format_exc()}")
    return name
