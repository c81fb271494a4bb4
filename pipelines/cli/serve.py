"""`headway serve`: one model server in the foreground."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[str | None, typer.Argument(help="NAME, or NAME@VERSION; the champion by default.")] = None,
    flags: Annotated[
        list[str] | None,
        typer.Argument(help="Further flags of the server, after `--`: `python -m headway.serving.server --help`."),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Serve this bundle folder instead of a registered model.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The REST port; 0 takes a free one.")] = 8081,
    grpc_port: Annotated[int, typer.Option(help="The gRPC port; 0 means no gRPC.")] = 0,
    payload_log: Annotated[Path | None, typer.Option(help="Log requests and answers into this folder.")] = None,
) -> None:
    """Serve one model in the foreground, each request checked against its contract; Ctrl-C stops it.

    Exit codes: 0 it was stopped; 1 the bundle must not be served, or a port is taken; 2 the call is wrong.
    """
    from headway.pipelines.cli.output import error_console

    if bundle is not None and model is not None and model.startswith("-"):
        flags, model = [model, *(flags or [])], None
    if (bundle is None) is (model is None):
        raise typer.BadParameter("give a model's name or --bundle DIR", param_hint="MODEL")
    label, given = _bundle(bundle) if bundle is not None else _registered(model or "")
    given += ["--host", host, "--port", str(port), "--grpc-port", str(grpc_port)]
    given += ["--payload-log", str(payload_log)] if payload_log else []
    where = f"http://{host}:{port}" if port else "the port that the log names"
    error_console().print(f"Serving {label} at {where}; POST /predict, GET /model/info. Ctrl-C stops it.", markup=False)
    command = [sys.executable, "-m", "headway.serving.server", "--exit-on-failure", "--drain-seconds", "0"]
    sys.stderr.flush()
    # The registry's libraries would stay in memory for as long as the server runs.
    os.execv(sys.executable, [*command, *given, *(flags or [])])  # noqa: S606 - our own arguments, no shell


def _bundle(folder: Path) -> tuple[str, list[str]]:
    from headway.components.errors import TrustError

    if not folder.is_dir():
        raise TrustError(f"{folder}: no such folder", expected="a bundle folder that `train` wrote")
    return str(folder), ["--bundle", str(folder)]


def _registered(model: str) -> tuple[str, list[str]]:
    """The version that a reference names, with its bundle fetched once into the installation's folder."""
    from headway.components.register.registry import Registry
    from headway.components.settings import load_settings

    settings = load_settings()
    name, _, ref = model.partition("@")
    registry = Registry(settings)
    version = registry.version(name, ref or "champion")
    folder = settings.home.expanduser().resolve() / "serving" / "bundles" / version.digest
    if not folder.is_dir():
        registry.download(version, folder)
    given = ["--bundle", str(folder), "--name", name, "--digest", version.digest, "--version", str(version.version)]
    return version.label, [*given, "--semver", version.semver]
