"""`headway replay`: a table's rows as live traffic."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.pipelines.cli.output import JsonOption, emit, error_console

if TYPE_CHECKING:
    from rich.console import Console

    from headway.pipelines.replay import Replayed


def replay(
    model: Annotated[str, typer.Argument(help="The endpoint; it takes the contract of its model's champion.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Rows: a CSV or Parquet file; what training has not seen in the model's newest run by default."
        ),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 100,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after so long; else at the last row.")] = None,
    user: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A column of the user's name; may be repeated.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The column with the truth, a late label; else the contract's target."),
    ] = None,
    repeat: Annotated[bool, typer.Option("--repeat", help="Start again at the end of the rows.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a table's rows to an endpoint, and say what was lost.

    Interrupt or terminate it to stop early. Exit codes: 0 every request was answered; 1 some were lost (no answer, or
    an answer 5xx).
    """
    import math
    import signal
    import threading

    from headway.components.register.registry import Registry
    from headway.components.settings import load_settings
    from headway.pipelines.replay import Rows, unseen_rows
    from headway.pipelines.replay import replay as send
    from headway.serving.platform import open_platform

    settings = load_settings()
    registry = Registry(settings)
    with registry.check(registry.champion(model)) as checked:
        contract = checked.contract
    rows = Rows(data or unseen_rows(settings, model), contract, users=user or (), label=label)
    err = error_console()
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    found = send(
        open_platform(settings).address(model),
        model,
        rows.forever() if repeat else rows,
        rate=rate,
        settings=settings,
        seconds=seconds or math.inf,
        stopped=stop.is_set,
        on_progress=lambda so_far: err.print(_line(so_far)),
    )
    if rows.left_out:
        err.print(f"{rows.left_out:,} rows break the contract and were left out")
    emit(found.to_dict(), as_json=as_json, render=lambda console: _render(console, found))
    if found.lost:
        raise typer.Exit(1)


def _line(found: "Replayed") -> str:
    shares = ", ".join(f"{name} {count:,}" for name, count in sorted(found.variants.items()))
    return f"{found.sent:,} sent ({shares}), {found.lost:,} lost, p99 {found.quantile_ms(0.99):.0f} ms"


def _render(console: "Console", found: "Replayed") -> None:
    console.print(_line(found))
    console.print(f"{found.sent / found.seconds:,.0f} requests a second for {found.seconds:.1f} s")
    if found.lost:
        console.print(f"first loss: {found.first_loss}", markup=False)
