"""The report of an evaluation: one HTML page whose first line is the decision, and the short text of the run page."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from headway.components import page
from headway.components.evaluate.gate import PASSES, Decision, Reason, Verdict, shown
from headway.components.evaluate.importance import REPEATS, SAMPLE_ROWS, Importance
from headway.components.evaluate.metrics import CALIBRATION_BINS, METRICS, Floats, Measurement, Sample
from headway.components.page import Interval, Raw, Section, Series, Status
from headway.components.run_page import spread

STATUS: dict[Decision, Status] = {Decision.PROMOTE: "good", Decision.HOLD: "warn", Decision.REJECT: "bad"}
_POINTS = 200
_DOTS = 1_500
_TOP_COLUMNS = 15
_ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0"}
"""Which way is better."""
_MAX_CLASSES = 30
"""A confusion matrix of more classes shows the most frequent ones."""


class Roc(NamedTuple):
    """A ROC curve, each of shape (n,)."""

    fpr: Floats
    tpr: Floats
    thresholds: Floats


def roc(sample: Sample) -> Roc | None:
    """The ROC curve of a binary sample; None where it is undefined."""
    from sklearn.metrics import roc_curve

    if sample.task != "binary" or sample.probabilities is None or len(np.unique(sample.truth == 1)) < 2:
        return None
    return Roc(*roc_curve(sample.truth == 1, sample.positive, sample_weight=sample.weight))


def confusion(sample: Sample) -> tuple[list[str], list[list[int]]] | None:
    """Labels and counts, one row for each true label and one column for each predicted one; None for regression.

    Args:
        sample: n rows; of more than 30 labels the most frequent are shown, the rest is left out.
    """
    if sample.task == "regression":
        return None
    k = len(sample.classes)
    counts = np.bincount(sample.truth * k + sample.predicted, minlength=k * k).reshape(k, k)
    kept = np.sort(np.argsort(-(counts.sum(axis=1)), kind="stable")[:_MAX_CLASSES])
    return [str(sample.classes[code]) for code in kept], counts[np.ix_(kept, kept)].tolist()


def summary(verdict: Verdict, primary: str) -> str:
    """The Markdown of the run page: decision, metrics, findings.

    Args:
        verdict: The decision with its facts.
        primary: The metric that stands first.
    """
    lines = [f"# {_escaped(verdict.headline)}", "", "| metric | value | champion's difference |", "|---|---|---|"]
    for name, found in _ordered(verdict.metrics, primary):
        difference = verdict.differences.get(name)
        lines.append(f"| {name} | {shown(found)} | {shown(difference, signed=True) if difference else ''} |")
    lines += ["", *(f"- **{_word(reason)}**: {_escaped(reason.text)}" for reason in verdict.reasons)]
    lines += ["", f"{verdict.rows:,} rows; data `{verdict.data_digest[:16]}`, bundle `{verdict.bundle_digest[:16]}`"]
    return "\n".join(lines) + "\n"


def render(
    verdict: Verdict,
    sample: Sample,
    primary: str,
    *,
    champion: Sample | None = None,
    champion_metrics: dict[str, Measurement] | None = None,
    importances: Sequence[Importance] = (),
    level: float = 0.95,
) -> str:
    """The whole page.

    Args:
        verdict: The decision with its facts.
        sample: The candidate's n rows.
        primary: The metric that stands first.
        champion: The champion's prediction of the same rows.
        champion_metrics: The champion's metrics.
        importances: The columns that the model leans on, the largest first.
        level: Level of the intervals, for the headings.
    """
    sections = [
        Section("Why", _reasons(verdict.reasons)),
        Section(f"Metrics, with {level:.0%} intervals", _metrics(verdict, primary, champion_metrics or {})),
    ]
    if verdict.slices:
        sections.append(Section(f"Slices, by {primary}", _slices(verdict, primary)))
    charts = _charts(sample, champion)
    if charts:
        pairs = [page.side_by_side(*charts[start : start + 2]) for start in range(0, len(charts), 2)]
        sections.append(Section("Predictions", "".join(pairs)))
    if importances:
        sections.append(Section("What the model leans on", _importances(importances, primary)))
    sections.append(Section("What was judged", _facts(verdict, sample), open=False))
    return page.page(
        title=f"Evaluation of {verdict.name}" if verdict.name else "Evaluation",
        headline=verdict.headline,
        status=STATUS[verdict.decision],
        lead=_lead(verdict, primary, level),
        sections=sections,
    )


def _lead(verdict: Verdict, primary: str, level: float) -> str:
    against = "no champion to compare with"
    if verdict.champion_version:
        against = f"compared with champion {verdict.champion_version} on the same rows"
    found = verdict.metrics.get(primary, Measurement())
    return f"{primary} {shown(found)} ({level:.0%} interval) on {verdict.rows:,} rows; {against}."


def _reasons(reasons: Sequence[Reason]) -> str:
    if not reasons:
        return "<p>The document sets no rule, so nothing stood against the model.</p>"
    return page.table(
        ["effect", "finding"],
        [(page.badge(_word(reason), STATUS[reason.effect]), reason.text) for reason in reasons],
    )


def _word(reason: Reason) -> str:
    if reason.effect is Decision.PROMOTE:
        return "met" if reason.code in PASSES else "note"
    return str(reason.effect)


def _metrics(verdict: Verdict, primary: str, champion: dict[str, Measurement]) -> str:
    ordered = list(_ordered(verdict.metrics, primary))
    headers = ["metric", "better", "value", "interval"]
    compared = bool(champion)
    if compared:
        headers += ["champion", "difference", "interval of the difference"]
    rows = []
    for name, found in ordered:
        row = [name, _ARROWS[METRICS[name].direction], found.value, _ends(found)]
        if compared:
            theirs, difference = champion.get(name, Measurement()), verdict.differences.get(name, Measurement())
            row += [theirs.value, _signed(difference.value), _ends(difference, signed=True)]
        rows.append(row)
    shared = [one for one in ordered if METRICS[one[0]].low >= 0 and METRICS[one[0]].high == 1]
    charts = [("Between 0 and 1", _plot(shared, None))] if shared else []
    if compared:
        differences = [one for one in _ordered(verdict.differences, primary) if METRICS[one[0]].high == 1]
        if len(differences) > 1:
            charts.append(("Candidate minus champion, arrows point to better", _plot(differences, 0.0)))
    drawn = [_titled(title, chart) for title, chart in charts if chart]
    table = page.table(headers, rows, numeric=set(range(2, len(headers))))
    return table + (page.side_by_side(*drawn) if drawn else "")


def _plot(found: Iterable[tuple[str, Measurement]], reference: float | None) -> str:
    rows = [
        Interval(
            f"{name} {_ARROWS[METRICS[name].direction]}" if name in METRICS else name, one.low, one.value, one.high
        )
        for name, one in found
        if one.value is not None and one.low is not None and one.high is not None
    ]
    return page.intervals(rows, reference=reference) if rows else ""


def _with_arrow(name: str) -> str:
    """A metric's name with the way that is better; a slice's as it is."""
    return f"{name} {_ARROWS[METRICS[name].direction]}" if name in METRICS else name


def _slices(verdict: Verdict, primary: str) -> str:
    others = sorted({name for one in verdict.slices for name in one.metrics} - {primary})
    rows = []
    for one in verdict.slices:
        found = [one.metrics.get(name, Measurement(reason="not judged")) for name in (primary, *others)]
        values = [cell for each in found for cell in (each.value, _ends(each))]
        rows.append([one.label, one.rows, *values, _standing(verdict, one.label)])
    headers = ["slice", "rows", *(cell for name in (primary, *others) for cell in (name, "interval")), "finding"]
    whole = verdict.metrics.get(primary, Measurement()).value
    chart = _plot([(one.label, one.metrics[primary]) for one in verdict.slices if primary in one.metrics], whole)
    note = "<p class='lead'>The dashed line is the value on all rows.</p>" if chart else ""
    return page.table(headers, rows, numeric=set(range(1, len(headers) - 1))) + chart + note


def _standing(verdict: Verdict, label: str) -> Raw:
    """The worst finding on a slice, as a coloured word."""
    found = [reason for reason in verdict.reasons if reason.slice == label]
    if not found:
        return page.badge("no rule", "neutral")
    worst = max(found, key=lambda reason: reason.effect.severity)
    too_small = worst.code == "slice_too_small"
    return page.badge("too small" if too_small else _word(worst), "warn" if too_small else STATUS[worst.effect])


def _charts(sample: Sample, champion: Sample | None) -> list[str]:
    if sample.task == "regression":
        return _regression_charts(sample)
    charts = []
    if sample.task == "binary" and sample.probabilities is not None:
        charts += _binary_charts(sample, champion)
    found = confusion(sample)
    if found:
        labels, matrix = found
        left_out = len(sample.classes) - len(labels)
        more = f" (without the {left_out} rarest labels)" if left_out else ""
        heat = page.heat_map(labels, labels, matrix)
        charts.append(_titled(f"Confusion: a row for each true label, a column for each predicted one{more}", heat))
    return charts


def _titled(title: str, chart: str) -> str:
    return f"<h3>{escape(title)}</h3>{chart}"


def _binary_charts(sample: Sample, champion: Sample | None) -> list[str]:
    both = [("candidate", sample)]
    if champion is not None and champion.probabilities is not None:
        both.append(("champion", champion))
    charts = []
    curves = [(name, one, found) for name, one in both if (found := roc(one)) is not None]
    if curves:
        series = [_series(name, found.fpr, found.tpr, number) for number, (name, _, found) in enumerate(curves)]
        charts.append(
            _titled(
                "ROC",
                page.line_chart(series, x_label="false positive rate", y_label="true positive rate", diagonal=True),
            )
        )
        lines = [_precision_recall(name, one, number) for number, (name, one, _) in enumerate(curves)]
        charts.append(_titled("Precision and recall", page.line_chart(lines, x_label="recall", y_label="precision")))
    lines = [_calibration(name, one, number) for number, (name, one) in enumerate(both)]
    charts.append(
        _titled(
            "Calibration",
            page.line_chart(lines, x_label="mean probability", y_label="share of positives", diagonal=True),
        )
    )
    charts.append(_titled(f"Scores of {sample.classes[1]} (bars) and the rest (line), share of each", _scores(sample)))
    return charts


def _series(name: str, xs: Floats, ys: Floats, number: int) -> Series:
    keep = spread(len(xs), _POINTS)
    return Series(name, xs[keep].tolist(), ys[keep].tolist(), dashed=number > 0)


def _precision_recall(name: str, sample: Sample, number: int) -> Series:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(sample.truth == 1, sample.positive, sample_weight=sample.weight)
    return _series(name, recall, precision, number)


def _calibration(name: str, sample: Sample, number: int) -> Series:
    """Mean probability and share of positives in bins of equal width; empty bins are left out."""
    weight = np.ones(sample.rows) if sample.weight is None else sample.weight
    bins = np.minimum((sample.positive * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    total = np.bincount(bins, weight, CALIBRATION_BINS)
    kept = total > 0
    means = np.bincount(bins, weight * sample.positive, CALIBRATION_BINS)[kept] / total[kept]
    shares = np.bincount(bins, weight * (sample.truth == 1), CALIBRATION_BINS)[kept] / total[kept]
    return Series(name, means.tolist(), shares.tolist(), dashed=number > 0)


def _scores(sample: Sample) -> str:
    edges = np.linspace(0, 1, 26)
    shares = []
    for member in (sample.truth == 1, sample.truth != 1):
        counts, _ = np.histogram(sample.positive[member], edges)
        shares.append((counts / max(counts.sum(), 1)).tolist())
    return page.histogram(edges.tolist(), shares[0], other=shares[1], x_label="probability")


def _regression_charts(sample: Sample) -> list[str]:
    keep = np.random.default_rng(0).permutation(sample.rows)[:_DOTS]
    truth, predicted, residual = sample.truth[keep], sample.predicted[keep], -sample.errors[keep]
    low, high = np.quantile(-sample.errors, [0.005, 0.995])
    inside = -sample.errors[(-sample.errors >= low) & (-sample.errors <= high)]
    counts, edges = np.histogram(inside, bins=30)
    return [
        _titled(
            "Predicted against actual",
            page.scatter(truth.tolist(), predicted.tolist(), x_label="actual", y_label="predicted", diagonal=True),
        ),
        _titled(
            "Residuals against predicted",
            page.scatter(predicted.tolist(), residual.tolist(), x_label="predicted", y_label="actual - predicted"),
        ),
        _titled(
            "Residuals, the middle 99 %",
            page.histogram(edges.tolist(), counts.tolist(), x_label="actual - predicted"),
        ),
    ]


def _importances(found: Sequence[Importance], primary: str) -> str:
    top = [one for one in found[:_TOP_COLUMNS] if one.loss > 0]
    chart = page.bars([one.column for one in top], [one.loss for one in top])
    return (
        f"<p class='lead'>How much worse {primary} gets when one column is shuffled: mean of {REPEATS} shuffles on at "
        f"most {SAMPLE_ROWS:,} rows. It says what the model uses, not what causes the target.</p>{chart}"
    )


def _facts(verdict: Verdict, sample: Sample) -> str:
    facts = [
        ("bundle", verdict.bundle_digest),
        ("data", verdict.data_digest),
        ("champion", f"{verdict.champion_version} {verdict.champion_digest}".strip() or None),
        ("rows", verdict.rows),
        ("task", sample.task),
    ]
    if sample.task != "regression":
        counts = np.bincount(sample.truth, minlength=len(sample.classes))
        listed = [f"{label}: {count:,}" for label, count in zip(sample.classes, counts, strict=True)]
        facts.append(("labels", ", ".join(listed[:_MAX_CLASSES])))
    return page.fact_list(facts)


def _ordered(found: dict[str, Measurement], primary: str) -> list[tuple[str, Measurement]]:
    names = [primary, *(name for name in METRICS if name != primary)]
    return [(name, found[name]) for name in names if name in found]


def _ends(found: Measurement, *, signed: bool = False) -> str:
    if found.low is None or found.high is None:
        return found.reason
    return f"{_signed(found.low)} to {_signed(found.high)}" if signed else f"{found.low:.4g} to {found.high:.4g}"


def _signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.4g}"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it stands."""
    return "".join("\\" + character if character in "\\`*_{}[]<>#|" else character for character in text)
