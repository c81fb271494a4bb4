"""`headway demo`: the worked example under live traffic."""

from typing import TYPE_CHECKING, Annotated

import typer

from headway.pipelines.cli.output import JsonOption, emit, error_console

if TYPE_CHECKING:
    from rich.console import Console

    from headway.pipelines.flights.live import Shown


def demo(
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 200,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave gateway and servers up; `headway down` ends them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the flights, release a better version, and see a bad one taken back, under replayed traffic.

    Exit codes: 0 all as it should be, not one request lost; 1 not so.
    """
    from headway.components.settings import load_settings
    from headway.pipelines.embedded.display import Display
    from headway.pipelines.flights.live import show

    err = error_console()
    with Display(err) as display:
        shown = show(
            load_settings(),
            rate=rate,
            keep=keep,
            tell=lambda text: err.print(text, markup=False),
            on_step=display.update,
        )
    emit(shown.to_dict(), as_json=as_json, render=lambda console: _render(console, shown))
    if not shown.as_promised:
        raise typer.Exit(1)


def _render(console: "Console", shown: "Shown") -> None:
    from headway.pipelines.cli.tables import print_table

    print_table(
        console,
        ["version", "end", "why"],
        [[str(one.newcomer.version), str(one.state), one.ended_why] for one in shown.releases],
    )
    traffic = shown.traffic
    console.print(
        f"{traffic['sent']:,} requests, {traffic['lost']} lost, p50 {traffic['p50_ms']:.0f} ms, "
        f"p99 {traffic['p99_ms']:.0f} ms; {traffic['labels']:,} labels came later"
    )
    console.print(f"the ledger is {'whole' if shown.ledger_ok else 'broken'}: headway ledger show")
    for path in shown.reports:
        console.print(f"report: {path}", soft_wrap=True)
