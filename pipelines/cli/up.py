"""`headway up`, `headway status`, `headway down`: serving on this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from headway.pipelines.cli.actor import user
from headway.pipelines.cli.output import JsonOption, emit, error_console

if TYPE_CHECKING:
    from rich.console import Console

    from headway.serving.embedded.lifecycle import UpResult
    from headway.serving.embedded.platform import EmbeddedPlatform
    from headway.serving.embedded.status import EndpointStatus, ProcessStatus, Status, VariantStatus


def up(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Registered models; each gets an endpoint with its champion."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve on this machine: gateway, release driver, and the servers of all endpoints.

    A second call changes nothing. After a crash or a reboot it brings everything back as it was.
    """
    from headway.serving.embedded.lifecycle import up as start
    from headway.serving.release.releases import Releases

    err = error_console()

    def tell(line: str) -> None:
        err.print(line, markup=False)

    platform = _platform()
    releases = Releases(platform.settings, platform=platform)
    for model in models or []:
        releases.registry.champion(model)  # a model without one is refused before anything starts
    result = start(platform, tell=tell)
    for model in models or []:
        tell(f"{model} starting")
        release = releases.serve(model, actor=user(), reason="the champion of a model that had no endpoint")
        if release is not None:
            tell(f"{model}/{release.newcomer.name} ready")
            result.changes.append(f"serving {model} version {release.newcomer.version}")
    emit(result.model_dump(), as_json=as_json, render=lambda console: _render_up(console, result))


def status(as_json: JsonOption = False) -> None:
    """Show gateway, release driver and endpoints: what shall run, and what does.

    Exit codes: 0 all is well; 1 something is not.
    """
    from headway.serving.embedded.status import status as look

    found = look(_platform())
    emit(found.model_dump(mode="json"), as_json=as_json, render=lambda console: _render_status(console, found))
    if found.problems:
        raise typer.Exit(1)


def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove the serving state and the payload log; never the registry.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop serving on this machine. Endpoints and routes stay for the next `headway up`."""
    from headway.serving.embedded.lifecycle import down as stop
    from headway.serving.embedded.lifecycle import purged_folders

    platform = _platform()
    if purge and not yes:
        folders = "\n".join(f"  {folder}" for folder in purged_folders(platform.settings))
        typer.confirm(f"This removes endpoints, logs and recorded requests:\n{folders}\nGo on?", abort=True, err=True)
    done = stop(platform, purge=purge)
    text = "; ".join(done) or "Nothing was up."
    emit({"done": done}, as_json=as_json, render=lambda console: console.print(text, markup=False))


def _platform() -> "EmbeddedPlatform":
    from headway.components.errors import UsageError
    from headway.components.settings import load_settings
    from headway.serving.embedded.platform import EmbeddedPlatform

    settings = load_settings()
    if settings.platform != "embedded":
        raise UsageError(f"The platform is {settings.platform!r}", expected="`embedded`: a cluster is up by itself")
    return EmbeddedPlatform(settings)


def _render_up(console: "Console", result: "UpResult") -> None:
    if not result.changes:
        console.print("Everything was up already: nothing changed.")
    for change in result.changes:
        console.print(change, markup=False)
    console.print(f"The gateway is {result.url}")


def _render_status(console: "Console", found: "Status") -> None:
    from headway.pipelines.cli.tables import print_table

    for title, process in (("gateway", found.gateway), ("driver", found.driver)):
        where = f" {found.url}" if title == "gateway" and found.url else ""
        console.print(f"{title}{where}: {_process(process)}", markup=False)
    rows = [_row(endpoint, variant) for endpoint in found.endpoints for variant in endpoint.variants]
    if rows:
        print_table(console, ["endpoint", "variant", "version", "share", "live", "copies", "state", "processes"], rows)
    else:
        console.print("There is no endpoint: headway up MODEL")
    for endpoint in found.endpoints:
        console.print(f"{endpoint.name}: {endpoint.url}", markup=False)
    for problem in found.problems:
        console.print("[bold red]✗[/] ", end="")
        console.print(problem, markup=False)


def _row(endpoint: "EndpointStatus", variant: "VariantStatus") -> list[str]:
    live = "?" if variant.live_weight is None else _percent(variant.live_weight)
    copies = _percent(variant.mirror_weight) if variant.mirror_weight else ""
    return [
        endpoint.name,
        variant.name,
        str(variant.version),
        _percent(variant.weight),
        live,
        copies,
        str(variant.phase),
        "; ".join(_process(process) for process in variant.processes),
    ]


def _percent(weight: int) -> str:
    return f"{weight / 100:g} %"


def _process(process: "ProcessStatus") -> str:
    if not process.pid:
        return process.state.lower()
    again = f", {process.restarts} restarts" if process.restarts else ""
    return f"pid {process.pid}, {process.memory_bytes / 1e6:.0f} MB{again}"
