"""The report of a study: one HTML page that needs nothing else, and the short text of a run page."""

from collections.abc import Sequence
from html import escape

from headway.components.evaluate.metrics import metric
from headway.components.page import (
    Raw,
    Section,
    Status,
    badge,
    bars,
    fact_list,
    page,
    short,
    side_by_side,
    table,
)
from headway.components.tune.charts import history, parallel_coordinates
from headway.components.tune.outcome import Outcome, Row
from headway.components.tune.space import scalar_text

_SHOWN_TRIALS = 500
_ENDED = {
    "trials": "the budget of trials is used up",
    "time": "the time was over",
    "cancelled": "it was cancelled, and goes on when it is run again",
    "failures": "nothing but failures",
    "running": "it is still running",
}
_STATUS: dict[str, Status] = {"finished": "good", "failed": "bad", "out of time": "warn"}


def render(outcome: Outcome) -> str:
    """The report as one self-contained page."""
    best = outcome.best
    sections = [Section("Best parameters", _best(outcome))] if best else []
    if best:
        sections += [Section("Optimisation history", _history(outcome)), Section("Parameters", _parameters(outcome))]
    failed = [row for row in outcome.rows if row.state == "failed"]
    if failed:
        sections.append(Section(f"Failed trials ({len(failed)})", _failures(failed)))
    sections.append(Section("All trials", _trials(outcome), open=len(outcome.rows) <= 60))
    return page(
        title=f"Tuning of {outcome.job.model}",
        headline=outcome.headline,
        status="good" if best else "bad",
        lead=f"{_counts(outcome)}; {outcome.seconds:.0f} s, ended because {_ENDED[outcome.ended]}. {_caution(outcome)}",
        sections=sections,
    )


def summary(outcome: Outcome) -> str:
    """The short text of a run page, as Markdown."""
    best = outcome.best
    lines = [f"## {outcome.job.model}: {outcome.headline}", "", f"{_counts(outcome)} in {outcome.seconds:.0f} s."]
    if best:
        lines += ["", "| parameter | value |", "|---|---|"]
        lines += [f"| `{key}` | {shown(value)} |" for key, value in best.values.items()]
        lines += ["", "The training section that goes on:", "", "```yaml", outcome.training.rstrip(), "```"]
    if outcome.run_link:
        lines += ["", f"[MLflow run]({outcome.run_link})"]
    caution = _caution(outcome)
    return "\n".join([*lines, *(["", caution] if caution else [])]) + "\n"


def _caution(outcome: Outcome) -> str:
    if outcome.job.spec.evaluation != "validation":
        return ""
    return (
        "Chosen on the validation part, where the gate judges too: its numbers will flatter this model. "
        "`evaluation: folds` avoids that."
    )


def _counts(outcome: Outcome) -> str:
    told = [f"{count} {state}" for state, count in outcome.counts.items()]
    more = f" ({outcome.abandoned} attempts were made again)" if outcome.abandoned else ""
    return f"{len(outcome.rows)} trials: {', '.join(told) or 'none'}{more}"


def _best(outcome: Outcome) -> str:
    best, baseline = outcome.require_best(), outcome.baseline
    rows = [
        [Raw(f"<code>{escape(key)}</code>"), shown(value), shown(baseline.values.get(key)) if baseline else "-"]
        for key, value in best.values.items()
    ]
    rows.append([outcome.job.metric, short(best.value), short(baseline.value) if baseline else "-"])
    facts = fact_list(
        [
            ("study", outcome.job.study),
            ("measure", f"{outcome.job.metric}, {_better(outcome)} is better, on {_judged(outcome)}"),
            ("sampler, pruner", f"{outcome.job.spec.sampler}, {outcome.job.spec.pruner}; seed {outcome.job.spec.seed}"),
            ("workers", f"{outcome.job.spec.workers} with {outcome.job.threads} threads each"),
        ]
    )
    code = f"<pre><code>{escape(outcome.training.rstrip())}</code></pre>"
    return facts + table(["parameter", f"trial {best.number}", "as it stood"], rows, numeric=[1, 2]) + code


def _better(outcome: Outcome) -> str:
    return {"higher": "higher", "lower": "lower", "zero": "nearer to 0"}[metric(outcome.job.metric).direction]


def _judged(outcome: Outcome) -> str:
    spec = outcome.job.spec
    return (
        "the validation part" if spec.evaluation == "validation" else f"{spec.folds.count} folds of the training part"
    )


def _history(outcome: Outcome) -> str:
    good = metric(outcome.job.metric).goodness
    reached: list[tuple[int, float]] = []
    for row in outcome.rows:
        if row.state != "finished" or row.value is None:
            continue
        if not reached or good(row.value) > good(reached[-1][1]):
            reached.append((row.number, row.value))
    legend = (
        '<p class="legend"><span class="s1">best so far</span><span class="s0">finished</span>'
        '<span class="s2">as it stood</span><span>pruned at its last report: hollow</span></p>'
    )
    return history(outcome.rows, reached, outcome.job.metric) + legend


def _parameters(outcome: Outcome) -> str:
    space = outcome.job.spec.search_space
    good = metric(outcome.job.metric).goodness
    finished = sorted(
        (row for row in outcome.rows if row.state == "finished" and row.value is not None),
        key=lambda row: -good(row.value or 0.0),
    )
    ranked = list(dict.fromkeys(each.key for name in outcome.importances for each in space if each.name == name))
    keys = [*ranked, *dict.fromkeys(each.key for each in space if each.key not in ranked)]
    body = ""
    if outcome.importances:
        names = [name.removeprefix("parameters.") for name in outcome.importances]
        note = "<p>Share of what separates the good trials from the others that each parameter explains.</p>"
        body = side_by_side(f"<h3>Importance</h3>{note}{bars(names, list(outcome.importances.values()))}")
    if len(finished) > 1:
        body += "<h3>Parallel coordinates</h3>" + parallel_coordinates(space, finished, keys, outcome.job.metric)
        body += f"<p>The best {min(len(finished), 150)} trials; the best one is thick. {_below(outcome)}</p>"
    return body or "<p>Too few trials finished to compare parameters.</p>"


def _below(outcome: Outcome) -> str:
    conditional = outcome.job.spec.search_space.conditional
    return "A line below an axis: the parameter does not exist in that trial." if conditional else ""


def _failures(rows: Sequence[Row]) -> str:
    return table(
        ["trial", "values", "error"],
        [[row.number, _told(row), Raw(f"<code>{escape(row.error.splitlines()[0])}</code>")] for row in rows],
    )


def _trials(outcome: Outcome) -> str:
    keys = list(dict.fromkeys(each.key for each in outcome.job.spec.search_space))
    headers = ["trial", "state", outcome.job.metric, "seconds", *(key.removeprefix("parameters.") for key in keys)]
    rows = [
        [
            row.number,
            _state(row),
            short(row.value),
            short(row.seconds),
            *(shown(row.values[key]) if key in row.values else "" for key in keys),
        ]
        for row in outcome.rows[:_SHOWN_TRIALS]
    ]
    more = len(outcome.rows) - len(rows)
    note = f"<p>and {more:,} more, in MLflow and in the journal</p>" if more > 0 else ""
    return table(headers, rows, numeric=[0, 2, 3]) + note


def _state(row: Row) -> Raw:
    shown_state = badge(row.state, _STATUS.get(row.state, "neutral"))
    return shown_state if row.same_as is None else Raw(f"{shown_state} as trial {row.same_as}")


def _told(row: Row) -> str:
    return ", ".join(f"{key.removeprefix('parameters.')}={shown(value)}" for key, value in row.values.items())


def shown(value: object) -> str:
    """A value of a parameter as people read it."""
    return short(value) if isinstance(value, float) else scalar_text(value)  # type: ignore[arg-type]
