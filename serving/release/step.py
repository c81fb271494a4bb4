"""A release as a pipeline's last step: start it, follow it to its end, and put it on the run page."""

import sys
from pathlib import Path
from typing import NamedTuple

from headway.components.errors import ReleaseError
from headway.components.settings import Settings
from headway.serving.release.plan import ReleaseSpec
from headway.serving.release.releases import Releases
from headway.serving.release.report import line, release_page, release_rows
from headway.serving.release.state import Release, State

HELD = "held"


class Released(NamedTuple):
    """What became of a release."""

    release: Release
    summary: str
    """Markdown for the run page."""

    @property
    def end(self) -> str:
        """`promoted`, `completed`, or `held` for a person."""
        return HELD if self.release.held and not self.release.state.over else str(self.release.state)


def release_version(
    name: str,
    version: str,
    release: str,
    *,
    reason: str,
    actor: str = "pipeline",
    report: Path | None = None,
    settings: Settings | None = None,
) -> Released:
    """Release a version and wait until it is over, or held for a person.

    A retried step goes on with the release that it started, if that is still about this version.

    Args:
        name: The model's name, which is the endpoint's too.
        version: A number, a semantic version or an alias.
        release: What the release shall do: the `release` section of model.yaml, as YAML text.
        reason: Why, in words.
        actor: Who releases.
        report: Where the HTML report goes.
        settings: The installation; the settings in force by default.

    Raises:
        ReleaseError: It was rolled back or aborted; the report is written first.
    """
    releases = Releases(settings)
    started = _started(releases, name, version, ReleaseSpec.parse(release, where="release"), reason, actor)
    ended = releases.wait(started.id, on_change=_Said().tell)
    rows = release_rows(ended, releases.registry.ledger.rows(model=name))
    if report is not None:
        report.write_text(release_page(ended, releases.verdicts(ended.id), rows), encoding="utf-8")
    if ended.state in (State.ROLLED_BACK, State.ABORTED):
        raise ReleaseError(
            f"Version {ended.newcomer.version} of {name!r} was {str(ended.state).replace('_', ' ')}: {ended.ended_why}",
            fix=f"headway release explain {name} --id {ended.id}",
        )
    return Released(ended, _summary(ended))


def _started(releases: Releases, name: str, version: str, spec: ReleaseSpec, reason: str, actor: str) -> Release:
    active = releases.store.active(name)
    if active is not None and active.newcomer.version == releases.registry.version(name, version).version:
        return active
    return releases.start(name, version, spec=spec, actor=actor, reason=reason)


class _Said:
    """A line in the step's log for each change."""

    def __init__(self) -> None:
        self._before = ""

    def tell(self, release: Release) -> None:
        outcome = release.verdict.outcome if release.verdict else ""
        now = f"{release.headline} {outcome}"
        if now != self._before and not release.pending:
            sys.stdout.write(line(release) + "\n")
        self._before = now


def _summary(release: Release) -> str:
    findings = release.verdict.findings if release.verdict else []
    lines = [f"# {release.endpoint}: {release.headline}", "", release.ended_why or release.held, ""]
    return "\n".join(lines + [f"- {finding.outcome}: {finding.text}" for finding in findings]) + "\n"
