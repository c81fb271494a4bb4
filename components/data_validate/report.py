"""The validation report: whether the data may be used, what is wrong with it, and what it looks like."""

from collections.abc import Sequence
from html import escape

from headway.components.data_validate.contract import Column, Contract, Level, Role
from headway.components.data_validate.findings import CheckReport, Example, Finding, Verdict
from headway.components.data_validate.profile import Profile
from headway.components.data_validate.summaries import (
    BooleanProfile,
    ColumnProfile,
    NumberProfile,
    StringProfile,
    TimestampProfile,
)
from headway.components.page import Raw, Section, Status, badge, bars, fact_list, histogram, page, short, table

MOST_CARDS_WITH_FULL_CHARTS = 60
"""A page with more columns than this has coarser charts, so that a thousand columns still open in a browser."""
FINE_BINS, COARSE_BINS = 30, 10
TOP_CATEGORIES, TOP_COARSE = 8, 3
SHOWN_EXAMPLES = 3

_STATUS: dict[Verdict, Status] = {"pass": "good", "warn": "warn", "quarantine": "warn", "block": "bad"}
_LEVEL_STATUS: dict[Level, Status] = {Level.BLOCK: "bad", Level.QUARANTINE: "warn", Level.WARN: "neutral"}


def validation_report(contract: Contract, report: CheckReport, profile: Profile, *, profiled: str = "") -> str:
    """Write the page.

    Args:
        contract: What the table must be.
        report: What the check found.
        profile: What the table's columns look like.
        profiled: Which rows the profile summarises, such as `the clean rows of train`; said above the columns.

    Returns:
        A self-contained HTML page; about 3 kB for each column.
    """
    sections = []
    if report.findings:
        sections.append(Section("What is wrong", _findings(report.findings)))
    sections.append(Section("What came, and what goes on", _parts(report)))
    title = f"Columns of {profiled}" if profiled else "Columns"
    sections.append(Section(title, _cards(contract, report, profile)))
    sections.append(Section("The contract", _contract(contract, report), open=False))
    return page(
        title=f"Validation of {contract.name}",
        headline=report.headline,
        status=_STATUS[report.verdict],
        lead=_lead(report),
        sections=sections,
    )


def markdown_summary(report: CheckReport) -> str:
    """The same in short, for the run page: the verdict, the findings, the parts."""
    lines = [f"## {_plain(report.headline)}", "", "| part | rows | quarantined | go on |", "|---|---:|---:|---:|"]
    for name, part in report.parts.items():
        lines.append(f"| {_plain(name)} | {part.rows:,} | {part.quarantined:,} | {part.rows - part.quarantined:,} |")
    if report.findings:
        lines += ["", "| level | what | rule | rows | share | expected |", "|---|---|---|---:|---:|---|"]
    for finding in report.findings[:20]:
        cells = [finding.level, finding.subject, finding.rule, f"{finding.failed:,}"]
        cells += [f"{finding.share:.2%}", finding.expected]
        lines.append("| " + " | ".join(_plain(cell) for cell in cells) + " |")
    if len(report.findings) > 20:
        lines.append(f"\n… and {len(report.findings) - 20} more in the report.")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """A text inside a Markdown table, where a bar or a line end would break the row."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("`", "'")


def _lead(report: CheckReport) -> str:
    rules = "1 rule" if report.rules == 1 else f"{report.rules:,} rules"
    columns = "1 column" if report.columns == 1 else f"{report.columns:,} columns"
    return f"{rules} on {columns}, checked over {report.rows:,} rows in {report.seconds:.1f} s."


def _findings(findings: Sequence[Finding]) -> str:
    rows = []
    for finding in findings:
        failed = "-" if finding.rule in ("freshness", "rows", "extra_columns") else f"{finding.failed:,}"
        share = "-" if failed == "-" else _percent(finding.share)
        rows.append(
            [
                badge(finding.level, _LEVEL_STATUS[finding.level]),
                Raw(f"<strong>{escape(finding.subject)}</strong><br>{escape(finding.rule.replace('_', ' '))}"),
                failed,
                share,
                Raw(f"<code>{escape(finding.expected)}</code>") if finding.rule == "expression" else finding.expected,
                Raw(_evidence(finding)),
            ]
        )
    return table(["Level", "What", "Rows", "Share", "Expected", "What came"], rows, numeric={2, 3})


def _evidence(finding: Finding) -> str:
    if finding.unseen:
        shown = ", ".join(f"<code>{escape(value)}</code> ({count:,} rows)" for value, count in finding.unseen.items())
        return f"unseen: {shown}"
    if finding.examples:
        return "<br>".join(_example(example, finding) for example in finding.examples[:SHOWN_EXAMPLES])
    return escape(finding.got)


def _example(example: Example, finding: Finding) -> str:
    value = "" if finding.rule == "missing" else f": <code>{escape(str(example.value))}</code>"
    key = ", ".join(f"{name} {'missing' if text is None else text}" for name, text in example.key.items())
    shown = f" ({escape(key)})" if key and finding.rule != "key" else ""
    return f"row {example.row:,} of {escape(example.part)}{value}{shown}"


def _parts(report: CheckReport) -> str:
    rows = []
    for name, part in report.parts.items():
        failed = sum(1 for finding in report.findings if name in finding.parts)
        rows.append([name, part.rows, part.quarantined, part.rows - part.quarantined, failed])
    return table(["Part", "Rows", "Quarantined", "Go on", "Rules broken"], rows, numeric={1, 2, 3, 4})


def _cards(contract: Contract, report: CheckReport, profile: Profile) -> str:
    coarse = len(profile.columns) > MOST_CARDS_WITH_FULL_CHARTS
    broken: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if finding.column:
            broken.setdefault(finding.column, []).append(finding)
    # The columns with findings first: on a wide table nobody scrolls to find them.
    names = sorted(profile.columns, key=lambda name: name not in broken)
    cards = (
        _card(name, contract.columns[name], profile.columns[name], profile.rows, broken.get(name, []), coarse)
        for name in names
        if name in contract.columns
    )
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(
    name: str, column: Column, summary: ColumnProfile, rows: int, findings: Sequence[Finding], coarse: bool
) -> str:
    marks = "".join(f" {badge(finding.rule, _LEVEL_STATUS[finding.level])}" for finding in findings)
    what = [str(column.type)] + ([column.unit] if column.unit else [])
    if column.role is not Role.FEATURE:
        what.append(str(column.role))
    if column.known == "outcome":
        what.append("known with the outcome")
    missing = f"{_percent(summary.missing / rows)} missing" if rows and summary.missing else "none missing"
    lines = [" · ".join([*what, missing]), _in_words(summary), _rules(column)]
    body = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return f'<div class="card"><h3>{escape(name)}{marks}</h3>{body}{_chart(summary, coarse)}</div>'


def _in_words(summary: ColumnProfile) -> str:
    if isinstance(summary, NumberProfile):
        if summary.min is None or summary.max is None:
            return "no number"
        return f"{short(summary.min)} to {short(summary.max)}, median {short(summary.quantile(0.5) or 0.0)}"
    if isinstance(summary, StringProfile):
        about = "" if summary.values is not None else "about "
        return f"{about}{summary.distinct:,} different text{'' if summary.distinct == 1 else 's'}"
    if isinstance(summary, TimestampProfile):
        return f"{summary.min[:16]} to {summary.max[:16]}".replace("T", " ") if summary.min and summary.max else "none"
    return f"{_percent(summary.true / summary.count)} true" if summary.count else "no value"


def _rules(column: Column) -> str:
    """The column's rules that are not defaults."""
    rules = []
    if column.missing.max_share:
        rules.append(f"at most {_percent(column.missing.max_share)} missing")
    if column.range:
        bounds = (column.range.min, column.range.max)
        low, high = ("" if bound is None else str(bound) for bound in bounds)
        rules.append(f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}")
    if column.values:
        count = len(column.values.allowed)
        rules.append("1 allowed value" if count == 1 else f"{count:,} allowed values")
    if column.pattern:
        rules.append(f"matches {column.pattern.regex[:60]}")
    rules += ["unique"] if column.unique else []
    rules += ["never decreases"] if column.monotone else []
    return f"rules: {'; '.join(rules)}" if rules else ""


def _chart(summary: ColumnProfile, coarse: bool) -> str:
    if not summary.count:
        return ""
    if isinstance(summary, NumberProfile):
        return _number_chart(summary, COARSE_BINS if coarse else FINE_BINS)
    if isinstance(summary, BooleanProfile):
        return bars(["true", "false"], [summary.true, summary.count - summary.true])
    if isinstance(summary, TimestampProfile):
        return _time_chart(summary, COARSE_BINS if coarse else FINE_BINS)
    if summary.values is not None:
        return _category_chart(summary.values, TOP_COARSE if coarse else TOP_CATEGORIES)
    edges, counts = _binned(sorted(summary.lengths.items()), COARSE_BINS if coarse else FINE_BINS)
    return histogram(edges, counts, x_label="characters")


def _number_chart(summary: NumberProfile, bins: int) -> str:
    """A histogram of the middle 99.8%, so that one far value does not flatten all others."""
    if summary.min is None or summary.max is None:
        return ""
    whole = all(float(value).is_integer() for value in summary.values) if summary.values else False
    low, high = summary.min, summary.max
    near = (summary.quantile(0.001) or 0.0, summary.quantile(0.999) or 0.0)
    cut = (high - low) > 4 * (near[1] - near[0]) > 0
    if cut:
        low, high = near
    if whole and high - low < bins:
        # One bar for each whole number, centred on it.
        edges = [low - 0.5 + i for i in range(int(high - low) + 2)]
    else:
        edges = _edges(low, high, bins)
    label = "the middle 99.8% of the values" if cut else ""
    return histogram(edges, summary.histogram(edges), x_label=label)


def _edges(low: float, high: float, bins: int) -> list[float]:
    if high <= low:
        margin = abs(low) * 0.05 or 0.5
        return [low - margin, low + margin]
    width = high / bins - low / bins
    return [*(low + i * width for i in range(bins)), high]


def _binned(counts: Sequence[tuple[int, int]], bins: int) -> tuple[list[float], list[float]]:
    """Counts of whole numbers in at most so many bins of equal width."""
    first, last = counts[0][0], counts[-1][0]
    width = -(-(last - first + 1) // bins)
    number = (last - first) // width + 1
    found = [0.0] * number
    for value, count in counts:
        found[(value - first) // width] += count
    return [first - 0.5 + i * width for i in range(number + 1)], found


def _time_chart(summary: TimestampProfile, bins: int) -> str:
    """Counts over time, as horizontal bars when there are few periods."""
    from datetime import datetime

    if not summary.periods:
        return ""
    suffixes = {"hour": ":00", "day": "", "month": "-01", "year": "-01-01"}
    moments = [
        (datetime.fromisoformat(start + suffixes[summary.period]).toordinal(), count)
        for start, count in summary.periods.items()
    ]
    if moments[-1][0] - moments[0][0] < 2:
        return _category_chart(summary.periods, TOP_CATEGORIES)
    first = moments[0][0]
    edges, counts = _binned([(day - first, count) for day, count in moments], bins)
    return histogram(edges, counts, x_label=f"days after {datetime.fromordinal(first):%Y-%m-%d}")


def _category_chart(values: dict[str, int], most: int) -> str:
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    labels = [value or "(empty)" for value, _ in ranked[:most]]
    counts = [count for _, count in ranked[:most]]
    if len(ranked) > most:
        labels.append(f"{len(ranked) - most:,} more")
        counts.append(sum(count for _, count in ranked[most:]))
    return bars(labels, counts)


def _contract(contract: Contract, report: CheckReport) -> str:
    facts = [("Name", contract.name), ("Digest", Raw(f"<code>{contract.digest()}</code>"))]
    if contract.description:
        facts.append(("Description", contract.description))
    facts += [("Target", contract.target or "-"), ("Key", ", ".join(contract.key.columns) if contract.key else "-")]
    facts += [(f"Rule {rule.name}", Raw(f"<code>{escape(rule.expression)}</code>")) for rule in contract.rules]
    facts.append(("Rules checked", f"{report.rules:,}"))
    return fact_list(facts)


def _percent(share: float) -> str:
    """A share in per cent; what is not nothing is never shown as 0."""
    if 0 < share < 0.0001:
        return "<0.01%"
    return f"{100 * share:.3g}%"
