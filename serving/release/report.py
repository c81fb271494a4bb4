"""A release as a page to look at, and as lines to read: where it stands, what it saw, what it did and why."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headway.components import page
from headway.components.page import Raw, Section, Series, Status
from headway.serving.platform import TOTAL_WEIGHT
from headway.serving.release.rehearsal import Rehearsed
from headway.serving.release.state import Release, State
from headway.serving.release.store import Seen
from headway.serving.release.verdict import Finding, Outcome

if TYPE_CHECKING:
    from headway.components.register.ledger import LedgerRow

_ENDS: dict[State, Status] = {
    State.PROMOTED: "good",
    State.COMPLETED: "good",
    State.ROLLED_BACK: "bad",
    State.ABORTED: "warn",
}
_OUTCOMES: dict[Outcome, Status] = {
    Outcome.PASS: "good",
    Outcome.FAIL: "bad",
    Outcome.INCONCLUSIVE: "neutral",
    Outcome.NO_DATA: "warn",
    Outcome.ERROR: "warn",
}


def release_rows(release: Release, rows: "Sequence[LedgerRow]") -> "list[LedgerRow]":
    """The ledger's rows of one release."""
    return [row for row in rows if row.body.get("release") == release.id]


def to_document(release: Release) -> dict[str, Any]:
    """What `--json` prints of a release: where it stands, without its inner book-keeping."""
    kept = release.model_dump(
        mode="json", exclude={"tallies", "reference", "pending", "revision", "before", "clock", "spec"}
    )
    live = release.route.weights if release.state is State.RUNNING else None
    return {
        **kept,
        "strategy": str(release.spec.strategy),
        "headline": release.headline,
        "stages": len(release.stages),
        "weights": live,
        "requests": {name: tally.counts.requests for name, tally in release.tallies.items()},
        "exit_code": release.exit_code,
    }


def line(release: Release) -> str:
    """A release in one line, for people who watch it."""
    parts = [release.headline]
    if release.state is State.RUNNING:
        parts.append(" ".join(f"{name} {weight / 100:g} %" for name, weight in release.route.weights.items()))
    counts = {name: tally.counts.requests for name, tally in release.tallies.items() if tally.counts.requests}
    if counts and not release.state.over:
        parts.append(", ".join(f"{name} answered {count:,}" for name, count in counts.items()))
    if release.ended_why and (release.state.over or release.ending):
        parts.append(release.ended_why)
    elif release.verdict and release.watched:
        parts.append(f"{release.verdict.outcome}: {release.verdict.text}")
    if release.trouble:
        parts.append(f"trouble: {release.trouble}")
    return " · ".join(parts)


def release_page(release: Release, seen: Sequence[Seen], rows: "Sequence[LedgerRow]") -> str:
    """The report of a release.

    Args:
        release: The release.
        seen: Its verdicts over time.
        rows: Its rows of the ledger.
    """
    newcomer, stable = release.newcomer, release.stable
    over = f"version {stable.version} → {newcomer.version}" if stable != newcomer else f"version {newcomer.version}"
    why = release.ended_why or (release.verdict.text if release.verdict else "")
    facts = page.fact_list(
        [
            ("strategy", str(release.spec.strategy)),
            ("started by", release.actor),
            ("reason", release.reason),
            ("digest", newcomer.digest[:16]),
            ("salt", release.salt),
            ("false rollbacks allowed", f"{release.spec.alpha:.0%} over the whole release"),
        ]
    )
    sections = [Section("What it is", facts), Section("Traffic", _traffic(release, rows))]
    if release.checks:
        sections.append(Section("Checks at weight 0", _checks(release)))
    if release.verdict and release.verdict.findings:
        sections.append(Section("Latest findings", _findings(release.verdict.findings)))
    sections += _histories(seen)
    sections.append(Section("Ledger", _ledger(rows), open=False))
    return page.page(
        title=f"Release {release.id}",
        headline=f"{release.endpoint}: {over}: {release.headline}",
        status=_ENDS.get(release.state, "warn" if release.held else "neutral"),
        lead=why,
        sections=sections,
    )


def rehearsal_page(rehearsed: Sequence[Rehearsed], about: str) -> str:
    """The report of a rehearsal.

    Args:
        rehearsed: What came of each fault.
        about: The traffic that was replayed, in words.
    """
    wrong = [one for one in rehearsed if not one.right]
    headline = "Every fault was caught, and the good version went out" if not wrong else _missed(wrong)
    table = page.table(
        ["fault", "ends", "caught by", "after", "stage", "newcomer's requests", "users exposed", "why"],
        [
            [
                fault_name(one),
                page.badge(one.end, "good" if one.right else "bad"),
                one.caught_by or "-",
                duration(one.hours),
                one.stage,
                one.newcomer_requests,
                one.users_exposed,
                one.text,
            ]
            for one in rehearsed
        ],
        numeric=(4, 5, 6),
    )
    series = [_steps(fault_name(one), one.timeline, one.hours) for one in rehearsed]
    chart = page.line_chart(series, x_label="hours", y_label="newcomer's share, %")
    return page.page(
        title="Rehearsal",
        headline=headline,
        status="bad" if wrong else "good",
        lead=about,
        sections=[Section("What would have happened", table), Section("Traffic", chart)],
    )


def fault_name(one: Rehearsed) -> str:
    """A fault as people write it: `errors 3 %`."""
    return "no fault" if one.fault.kind == "none" else f"{one.fault.kind} {one.fault.size * 100:g} %"


def duration(hours: float) -> str:
    """A time in its natural unit.

    Example:
        >>> duration(0.01), duration(0.5), duration(30)
        ('36 s', '30 min', '30 h')
    """
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.0f} h"


def _missed(wrong: Sequence[Rehearsed]) -> str:
    return "Not as it should be: " + ", ".join(fault_name(one) for one in wrong)


def _traffic(release: Release, rows: "Sequence[LedgerRow]") -> str:
    points = [
        (_moment(row.time), int(row.body["weights"].get(release.newcomer.name, 0)))
        for row in rows
        if row.kind == "weights"
    ]
    if not points:
        return page.table(["traffic"], [["No traffic was moved."]])
    begin = release.created
    line_ = [((moment - begin) / timedelta(hours=1), weight) for moment, weight in points]
    last = max((_moment(row.time) for row in rows), default=begin)
    hours = (last - begin) / timedelta(hours=1)
    scale, unit = (60, "minutes") if hours < 2 else (1, "hours")
    return page.line_chart(
        [_steps(release.newcomer.name, [(x * scale, y) for x, y in line_], hours * scale)],
        x_label=f"{unit} since {begin:%Y-%m-%d %H:%M} UTC",
        y_label="newcomer's share, %",
    )


def _steps(name: str, points: Sequence[tuple[float, int]], end: float) -> Series:
    """A line that moves in steps, as weights do."""
    xs: list[float] = [0.0]
    ys: list[float] = [0.0]
    for x, weight in points:
        xs += [x, x]
        ys += [ys[-1], weight * 100 / TOTAL_WEIGHT]
    return Series(name, [*xs, max(end, xs[-1])], [*ys, ys[-1]])


def _checks(release: Release) -> str:
    marks: dict[bool, Raw] = {True: page.badge("passed", "good"), False: page.badge("failed", "bad")}
    return page.table(["check", "", "what"], [[check.name, marks[check.ok], check.text] for check in release.checks])


def _findings(findings: Sequence[Finding]) -> str:
    return page.table(
        ["what", "", "stable", "newcomer", "interval", "allowed", "what it says"],
        [
            [
                finding.name,
                page.badge(str(finding.outcome), _OUTCOMES[finding.outcome]),
                page.short(finding.stable),
                page.short(finding.canary),
                "-" if finding.low is None else f"{page.short(finding.low)} to {page.short(finding.high)}",
                page.short(finding.bound),
                finding.text,
            ]
            for finding in findings
        ],
        numeric=(2, 3, 4, 5),
    )


def _histories(seen: Sequence[Seen]) -> list[Section]:
    """For each finding the interval over the newcomer's requests, against what is allowed."""
    charts = []
    names = dict.fromkeys(finding.name for one in seen for finding in one.verdict.findings)
    for name in names:
        found = [
            (one.time, finding)
            for one in seen
            for finding in one.verdict.findings
            if finding.name == name and finding.low is not None and finding.high is not None
        ]
        if len(found) > 1:
            charts.append(f"<h3>{name}</h3>" + _history(found))
    return [Section("How sure it was, over time", page.side_by_side(*charts))] if charts else []


def _history(found: Sequence[tuple[datetime, Finding]]) -> str:
    begin = found[0][0]
    xs = [(moment - begin) / timedelta(minutes=1) for moment, _ in found]
    lows = [finding.low or 0.0 for _, finding in found]
    highs = [finding.high or 0.0 for _, finding in found]
    bounds = [finding.bound or 0.0 for _, finding in found]
    lines = [Series("lower end", xs, lows), Series("upper end", xs, highs), Series("allowed", xs, bounds, dashed=True)]
    return page.line_chart(lines, x_label="minutes", band=(xs, lows, highs))


def _ledger(rows: "Sequence[LedgerRow]") -> str:
    return page.table(
        ["seq", "time (UTC)", "what", "who", "why"],
        [
            [row.seq, row.time[:19].replace("T", " "), row.kind, row.actor, str(row.body.get("reason", ""))]
            for row in rows
        ],
        numeric=(0,),
    )


def _moment(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp).astimezone(UTC)
