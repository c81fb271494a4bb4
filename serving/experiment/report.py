"""The report of an experiment: one HTML page whose first line is what it says."""

from html import escape

from headway.components import page
from headway.components.page import Interval, Raw, Section, Series, Status
from headway.serving.experiment.analysis import Comparison, Finding, Point, Results
from headway.serving.experiment.spec import ExperimentSpec, Standing

_STATUS: dict[Finding, Status] = {
    Finding.BETTER: "good",
    Finding.WORSE: "bad",
    Finding.EQUIVALENT: "neutral",
    Finding.UNDECIDED: "warn",
    Finding.NO_DATA: "neutral",
}

_WIDEST = 8
"""A plot over time starts once the interval is at most so many times as wide as the last one."""


def render(standing: Standing, results: Results) -> str:
    """The whole page.

    Args:
        standing: The experiment.
        results: What it says, with its past for the plots over time.
    """
    spec = standing.spec
    sections = [
        Section("Metrics", _table(results) + _intervals(results)),
        Section("How users are split", _split(results)),
    ]
    charts = [chart for metric in spec.metrics for chart in _over_time(results, metric.name)]
    if charts:
        pairs = [page.side_by_side(*charts[start : start + 2]) for start in range(0, len(charts), 2)]
        sections.append(Section("How it came about", "".join(pairs)))
    if results.notes:
        notes = page.table(["note"], [[note] for note in results.notes])
        sections.append(Section("To bear in mind", notes))
    sections.append(Section("How to read it", _reading(spec, results), open=False))
    sections.append(Section("The experiment", _facts(standing), open=False))
    return page.page(
        title=f"Experiment {spec.name}",
        headline=results.headline,
        status=_status(results),
        lead=_lead(standing, results),
        sections=sections,
    )


def _status(results: Results) -> Status:
    if results.split.mismatch:
        return "bad"
    if results.winner is not None:
        return "good"
    return "neutral" if not any(results.split.users.values()) else "warn"


def _lead(standing: Standing, results: Results) -> str:
    users = sum(results.split.users.values())
    since = f" since {standing.started:%Y-%m-%d %H:%M} UTC" if standing.started else ""
    about = f" {standing.spec.description}" if standing.spec.description else ""
    return f"{standing.spec.name} is {standing.state}; {users:,} users have seen a variant{since}.{about}"


def _table(results: Results) -> str:
    headers = [
        "metric",
        "variant",
        "users",
        results.control,
        "value",
        "difference",
        f"interval, {100 * results.level:.4g} %",
        "lift",
        "by",
        "finding",
    ]
    rows = [
        (
            found.metric,
            found.variant,
            found.users,
            found.control_value,
            found.value,
            _signed(found.difference),
            _ends(found.low, found.high),
            _lift(found),
            found.method,
            page.badge(str(found.finding).replace("_", " "), _STATUS[found.finding]),
        )
        for found in results.comparisons
    ]
    return page.table(headers, rows, numeric=(2, 3, 4, 5, 6, 7))


def _intervals(results: Results) -> str:
    """For each metric the differences with their intervals; metrics of different units share no axis."""
    charts = []
    for metric in dict.fromkeys(found.metric for found in results.comparisons):
        rows = [
            Interval(found.variant, found.low, found.difference, found.high)
            for found in results.comparisons
            if found.metric == metric
            and found.low is not None
            and found.difference is not None
            and found.high is not None
        ]
        if rows:
            title = Raw(f"<h3>{escape(metric)}: difference from {escape(results.control)}</h3>")
            charts.append(title + page.intervals(rows, reference=0.0))
    pairs = [page.side_by_side(*charts[start : start + 2]) for start in range(0, len(charts), 2)]
    return "".join(pairs)


def _split(results: Results) -> str:
    split = results.split
    total = sum(split.users.values())
    rows = [
        (name, f"{split.asked[name]:.2%}", users, f"{users / total:.2%}" if total else None)
        for name, users in split.users.items()
    ]
    verdict = (
        page.badge("not as asked", "bad") if split.mismatch else page.badge("as asked", "good" if total else "neutral")
    )
    text = f"<p>{verdict} p = {split.p_value:.3g}, valid however often one looks.</p>" if total else "<p>No data.</p>"
    return text + page.table(["variant", "asked", "users", "got"], rows, numeric=(1, 2, 3))


def _over_time(results: Results, metric: str) -> list[str]:
    """One chart for each variant: the difference and its interval, by users."""
    charts = []
    for variant in dict.fromkeys(found.variant for found in results.comparisons):
        known = [
            (point, found)
            for point in results.past
            for found in point.comparisons
            if (found.metric, found.variant) == (metric, variant) and found.low is not None
        ]
        # The first looks are so wide that on their scale all later ones would be one line.
        shown = [(point, found) for point, found in known if _width(found) <= _WIDEST * _width(known[-1][1])]
        if len(shown) > 1:
            charts.append(_chart(metric, variant, shown))
    return charts


def _width(found: Comparison) -> float:
    return (found.high or 0.0) - (found.low or 0.0)


def _chart(metric: str, variant: str, known: list[tuple[Point, Comparison]]) -> str:
    xs = [float(sum(point.users.values())) for point, _ in known]
    lows, highs = ([getattr(found, end) for _, found in known] for end in ("low", "high"))
    series = [
        Series("difference", xs, [found.difference or 0.0 for _, found in known]),
        Series("no difference", [xs[0], xs[-1]], [0.0, 0.0], dashed=True),
    ]
    return page.line_chart(series, x_label="users", y_label=f"{metric}: {variant}", band=(xs, lows, highs))


def _reading(spec: ExperimentSpec, results: Results) -> str:
    lines = (
        "Every interval holds at every look at once, and all of them together: the chance that any is ever wrong is "
        f"{spec.alpha:g}. So one may look at any time, and stop as soon as the interval of {spec.metrics[0].name} "
        "excludes zero.",
        f"That is why each interval has the level {results.level:.4g}, and is wider than one made for a single look. "
        f"It is tightest at {spec.planned_users:,} users of two variants.",
        f"A variant wins on {spec.metrics[0].name} alone, with {spec.min_users:,} users of each variant at least, and "
        "only while the users are split as asked.",
        "CUPED takes out what the covariate, known from before, explains of a metric; the expected difference stays.",
    )
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _facts(standing: Standing) -> str:
    spec = standing.spec
    shares = ", ".join(f"{name} {weight / 100:g} %" for name, weight in spec.weights.items())
    return page.fact_list(
        [
            ("variants", shares),
            ("metrics", ", ".join(f"{metric.name} ({metric.kind})" for metric in spec.metrics)),
            ("covariate", spec.covariate or "none"),
            ("assigned by", f"xxh64(“{spec.salt or spec.name}:” + user) % 10000"),
            ("exposures from", f"payload log of {spec.endpoint}" if spec.endpoint else "variant()"),
            ("created", _moment(standing.created)),
            ("started", _moment(standing.started)),
            ("ended", _moment(standing.ended)),
            ("reason", standing.reason or None),
        ]
    )


def _moment(time: object) -> str | None:
    return f"{time:%Y-%m-%d %H:%M} UTC" if time is not None else None


def _signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.4g}"


def _ends(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:+.4g} to {high:+.4g}"


def _lift(found: Comparison) -> str | None:
    if found.lift is None or found.lift_low is None or found.lift_high is None:
        return None
    return f"{found.lift:+.1%} ({found.lift_low:+.1%} to {found.lift_high:+.1%})"
