"""The command line: one module for each group of commands.

Exit codes, the same for every command: 0 done; 1 it failed, was rejected or blocked; 2 the call is wrong;
3 held, a person should look; 130 cancelled.

Only typer is imported here and at the top of the command modules, so that `headway --help` answers at once.
"""

import sys
from typing import Annotated, Any

import typer

from headway.components.errors import HeadwayError
from headway.pipelines.cli import compile as compile_module
from headway.pipelines.cli import (
    config,
    contract,
    demo,
    doctor,
    experiment,
    ledger,
    model,
    new,
    optimise,
    outcomes,
    release,
    replay,
    run,
    runs,
    serve,
    submit,
    tune,
    up,
)

_CANCELLED = 130


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"headway {version('headway')}\n")
        raise typer.Exit


class _Commands(typer.core.TyperGroup):
    """Commands whose errors are sentences, not tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except HeadwayError as error:
            _tell(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            sys.stderr.write("Cancelled. Finished steps stay in the cache: the next run goes on from there.\n")
            raise typer.Exit(_CANCELLED) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pipeline-as-code on Kubeflow: one model from a data contract to live traffic and back.",
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


app.command("run")(run.run)
app.command("demo")(demo.demo)
app.command("tune")(tune.tune)
app.command("optimise")(optimise.optimise)
app.command("new")(new.new)
app.command("compile")(compile_module.compile_)
app.command("submit")(submit.submit)
app.add_typer(runs.app, name="runs")
app.add_typer(contract.app, name="contract")
app.add_typer(model.app, name="model")
app.add_typer(ledger.app, name="ledger")
app.command("up")(up.up)
app.command("status")(up.status)
app.command("down")(up.down)
app.command("serve")(serve.serve)
app.command("replay")(replay.replay)
app.add_typer(release.app, name="release")
app.add_typer(experiment.app, name="experiment")
app.add_typer(outcomes.app, name="outcomes")
app.command("config")(config.config)
app.command("doctor")(doctor.doctor)


def _tell(error: HeadwayError) -> None:
    from headway.components.errors import StepFailedError
    from headway.pipelines.cli.output import error_console

    err = error_console()
    if isinstance(error, StepFailedError) and error.detail:
        err.print(error.detail.rstrip(), markup=False)
    first, *rest = str(error).splitlines()
    err.print(f"[bold red]Error {error.code}[/] ", end="")
    err.print(first, markup=False)
    for line in rest:
        err.print(line, markup=False)


def main() -> None:
    """The console script."""
    app()
