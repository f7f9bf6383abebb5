"""``enova apply``."""

from __future__ import annotations

import click

from enova.cli import options


@click.command("apply", short_help="Make it so: a spec, or exactly a saved plan.")
@options.spec
@options.env
@options.yes
@options.wait
@options.output("text", "json")
@options.verbose
@click.option("--locked", is_flag=True, help="Fail unless enova.lock answers for every service.")
def command(
    spec: str, env: str, yes: bool, wait_s: float, output: str, verbose: bool, locked: bool
) -> int:
    """Make it so. SPEC is a spec, or a plan saved with `enova plan --save`.

    New replicas must serve a token before old ones go. When one fails it is removed, the old ones
    keep serving, and the reason is shown. With `-o json` every event is a line on standard output,
    the outcome the last one.
    """
    from enova.cli.carrying import carry_out_and_report, report_nothing_to_do
    from enova.cli.prompt import consent, need_consent_beforehand
    from enova.cli.views.plan import put_plan
    from enova.workflows import apply as applying
    from enova.workflows.plan import plan

    surroundings = options.surroundings()
    if spec.endswith(".json"):
        made = applying.read_saved(spec)
        applying.check_files(made, surroundings)
        here = applying.site_of(made, surroundings)
    else:
        planned = plan(options.source(spec, env), surroundings, locked=locked)
        made, here = planned.plan, planned.site
    if output == "text":
        put_plan(made, "text", verbose=verbose)
    if made.is_empty:
        applying.keep_choices(made, surroundings)
        return report_nothing_to_do(made, output)
    applying.refuse_guards(made)
    if not yes:
        need_consent_beforehand(stdin_spec=spec == "-", output=output)
        consent(f"Apply this to {made.stack}?")
    return carry_out_and_report(
        made,
        here,
        command="enova apply",
        again=options.again("enova apply", next(iter(made.sources), ""), made.env),
        output=output,
        wait_s=wait_s,
    )
