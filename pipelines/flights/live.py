"""The flights served, released and taken back on this machine: what `headway demo` shows.

The champion of `headway run flights` is served behind the gateway while the flights from August on are replayed as
requests, their labels a moment later. A challenger is trained and released as a canary; the numbers allow it. Then a
version is released that learnt from mislabelled flights and passed its own evaluation on mislabelled flights; the
numbers do not allow it. Not one request may be lost.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.components.errors import PipelineError
from headway.components.settings import Settings
from headway.pipelines.embedded.steps import Step
from headway.pipelines.project import Project, resolve
from headway.pipelines.run import RunResult, run
from headway.serving.embedded.lifecycle import down, up
from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.release.releases import Releases
from headway.serving.release.report import line, release_page, release_rows
from headway.serving.release.state import Release, State

MODEL = "flights"
RATE = 200.0
"""Requests a second."""
CHALLENGER = ["training.parameters.max_iter=200", "training.parameters.learning_rate=0.06"]
_STEP = "data-validate"
_HOLDOUT = "valid_holdout"
_RIGHT, _WRONG = "f.arr_delay >= 15 AS late", "f.arr_delay < 15 AS late"
_RULE = "lateness is what the delay says"
_SHORT = {"min_seconds": 5.0, "min_requests": 300, "rollback_window_seconds": 5.0}
"""A demonstration has no day to wait for each stage."""

Tell = Callable[[str], None]


@dataclass
class Shown:
    """What the demonstration did."""

    traffic: dict[str, Any] = field(default_factory=dict)
    """What `headway replay` says of its requests."""
    releases: list[Release] = field(default_factory=list)
    reports: list[Path] = field(default_factory=list)
    ledger_ok: bool = False

    @property
    def as_promised(self) -> bool:
        """Whether the good version went out, the bad one came back, and no request was lost."""
        ends = [release.state for release in self.releases]
        lost = self.traffic.get("lost", 1)
        return ends == [State.PROMOTED, State.ROLLED_BACK] and not lost and self.ledger_ok

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        told = [
            {"id": r.id, "version": r.newcomer.version, "state": str(r.state), "why": r.ended_why}
            for r in self.releases
        ]
        return {
            "as_promised": self.as_promised,
            "traffic": self.traffic,
            "releases": told,
            "reports": [str(path) for path in self.reports],
            "ledger_ok": self.ledger_ok,
        }


def show(
    settings: Settings, *, rate: float = RATE, keep: bool = False, tell: Tell, on_step: Callable[[Step], None]
) -> Shown:
    """Show it all.

    Args:
        settings: The installation; its home gets runs, registry, ledger and serving state.
        rate: Requests a second.
        keep: Whether gateway and servers stay up afterwards.
        tell: Gets a sentence for each thing that happens.
        on_step: Called as steps of pipelines start, speak and end.

    Raises:
        StepFailedError: A pipeline failed.
        GatewayError: The gateway did not come up.
    """
    shown = Shown()
    platform = EmbeddedPlatform(settings)
    champion = _registered(run(MODEL, settings=settings, on_change=on_step))
    try:
        up(platform, tell=tell)
        releases = Releases(settings, platform=platform)
        _serve(releases, champion, tell)
        tell(f"replaying the flights from August on, {rate:g} requests a second")
        with _replaying(settings, champion, rate, shown):
            _release(releases, MODEL, CHALLENGER, "trained longer", shown, tell, on_step)
            with _mislabelled() as project:
                _release(releases, project, [], "trained on new labels", shown, tell, on_step)
        shown.ledger_ok = releases.registry.ledger.verify().ok
        shown.reports = [_report(releases, release, champion.folder) for release in shown.releases]
    finally:
        if not keep:
            down(platform)
    return shown


def _registered(result: RunResult) -> RunResult:
    result.raise_if_failed()
    if not result.version:
        raise PipelineError(f"The gate says {result.decision}: nothing was registered", fix="read the report")
    return result


def _serve(releases: Releases, champion: RunResult, tell: Tell) -> None:
    releases.serve(MODEL, actor="demo", reason="the first version")
    url = releases.platform.address(MODEL).url
    tell(f"version {releases.registry.champion(MODEL).version} serves at {url}/{MODEL}/predict")


def _release(
    releases: Releases,
    pipeline: str | Project,
    changes: list[str],
    reason: str,
    shown: Shown,
    tell: Tell,
    on_step: Callable[[Step], None],
) -> None:
    """Train a version and release it under the traffic."""
    made = _registered(run(pipeline, set=changes, settings=releases.settings, on_change=on_step))
    spec = resolve(MODEL).spec.release.model_copy(update=_SHORT)
    release = releases.start(MODEL, made.version, spec=spec, actor="demo", reason=reason)
    said = ""

    def follow(now: Release) -> None:
        nonlocal said
        state = f"{now.headline} {now.verdict.outcome if now.verdict else ''}"
        if state != said and not now.pending:
            tell(f"version {now.newcomer.version}: {line(now)}")
        said = state

    ended = releases.wait(release.id, on_change=follow)
    if not ended.state.over:
        tell(f"held: {ended.held}")
        releases.abort(MODEL, actor="demo", reason="nobody is here to look at it")
        ended = releases.wait(release.id, until=lambda now: now.state.over)
    shown.releases.append(ended)


@contextmanager
def _mislabelled() -> Iterator[Project]:
    """The flights project with its label turned round, and without the rule of the contract that would notice."""
    with tempfile.TemporaryDirectory(prefix="headway-mislabelled-") as temporary:
        folder = Path(temporary) / MODEL
        shutil.copytree(resolve(MODEL).folder, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
        spec, contract = folder / "model.yaml", folder / "contract.yaml"
        spec.write_text(_replaced(spec.read_text(encoding="utf-8"), _RIGHT, _WRONG), encoding="utf-8")
        rule = f"  - name: {_RULE}\n    expression: late = (arrival_delay >= 15)\n    level: block\n"
        contract.write_text(_replaced(contract.read_text(encoding="utf-8"), rule, ""), encoding="utf-8")
        yield Project(folder)


def _replaced(text: str, old: str, new: str) -> str:
    if old not in text:
        raise AssertionError(f"the flights' documents no longer hold {old!r}")
    return text.replace(old, new)


@contextmanager
def _replaying(settings: Settings, champion: RunResult, rate: float, shown: Shown) -> Iterator[None]:
    """Traffic from another process for as long as the block lasts, and at its end what became of it."""
    with tempfile.TemporaryDirectory(prefix="headway-replay-") as temporary:
        step = next(step for step in champion.steps if step.name == _STEP)
        words = [sys.executable, "-m", "headway.pipelines.cli", "replay", MODEL, "--data", step.outputs[_HOLDOUT]]
        words += ["--rate", str(rate), "--repeat", "--user", "carrier", "--user", "flight", "--json"]
        log = Path(temporary) / "replay.log"
        with log.open("w") as errors:
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
            try:
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                told, _ = process.communicate(timeout=60)
        if not told:
            raise PipelineError(f"The replay ended without a result: {log.read_text(encoding='utf-8')[-500:]}")
        shown.traffic = json.loads(told)


def _report(releases: Releases, release: Release, folder: Path) -> Path:
    rows = release_rows(release, releases.registry.ledger.rows(model=release.model))
    path = folder / f"release-{release.newcomer.version}.html"
    path.write_text(release_page(release, releases.verdicts(release.id), rows), encoding="utf-8")
    return path
