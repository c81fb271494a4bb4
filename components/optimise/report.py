"""The report of an optimisation: one HTML page whose first line is the choice, and the short text of the run page."""

from typing import TYPE_CHECKING, Any

import numpy as np

from headway.components import page
from headway.components.optimise.choose import Measured
from headway.components.page import Raw, Section

if TYPE_CHECKING:
    from headway.components.optimise.optimise import Optimised

_BINS = 40


def summary(optimised: "Optimised") -> str:
    """The Markdown of the run page: the choice, and a line for each file."""
    record = optimised.record
    lines = [f"# {headline(optimised)}", "", f"{record.reason}.", ""]
    if optimised.measured:
        headings = _headings(optimised)
        lines += [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
        lines += [f"| {' | '.join(_text(cell) for cell in row)} |" for row in _rows(optimised)]
        lines += ["", f"Compared on {record.rows:,} rows; bundle `{optimised.digest[:16]}`"]
    return "\n".join(lines) + "\n"


def headline(optimised: "Optimised") -> str:
    """The choice, and how many times as fast it is as the file that training wrote, in one line."""
    record, chosen = optimised.record, optimised.chosen
    if chosen is None:
        return f"{optimised.info.name} is served as it is, from {record.chosen}"
    first = optimised.measured[0]
    if chosen is first or not first.microseconds:
        return f"{optimised.info.name} is served from {record.chosen}, as it was trained"
    faster = [f"{_ratio(first, chosen, batch)} times as fast at {_of_rows(batch)}" for batch in record.batches]
    return f"{optimised.info.name} is served from {record.chosen}: {', '.join(faster)}"


def render(optimised: "Optimised") -> str:
    """The whole page."""
    record = optimised.record
    sections = []
    if optimised.measured:
        headings = _headings(optimised)
        numeric = range(1, len(headings) - 1)
        sections.append(Section("The files", page.table(headings, _rows(optimised), numeric=numeric) + _legend()))
        sections.append(Section("Time of one call", _bars(optimised)))
        if charts := _charts(optimised):
            sections.append(Section("Answers", charts))
        sections.append(Section("What was compared", _facts(optimised), open=False))
    served = optimised.chosen is not None and optimised.chosen is not optimised.measured[0]
    return page.page(
        title=f"Optimisation of {optimised.info.name}",
        headline=headline(optimised),
        status="good" if served else "neutral",
        lead=f"{record.reason[:1].upper()}{record.reason[1:]}.",
        sections=sections,
    )


def _headings(optimised: "Optimised") -> list[str]:
    times = [f"µs, {_of_rows(batch)}" for batch in optimised.record.batches]
    metric = optimised.record.metric or "metric"
    return ["file", "size", *times, "largest difference", "other labels", metric, "loss, at worst", "verdict"]


def _rows(optimised: "Optimised") -> list[list[Any]]:
    found = []
    for one in optimised.measured:
        record = one.record
        first = one is optimised.measured[0]
        found.append(
            [
                record.name,
                _size(record.size),
                *(_time(optimised.measured[0], one, batch) for batch in optimised.record.batches),
                "-" if record.difference is None else f"{record.difference:.2g}",
                "-" if first or not record.size or optimised.info.task == "regression" else record.flips,
                record.quality,
                "-" if record.loss is None else f"{record.loss:.2g}",
                _verdict(optimised, one),
            ]
        )
    return found


def _verdict(optimised: "Optimised", one: Measured) -> Any:
    if one.record.name == optimised.record.chosen:
        return page.badge("served", "good")
    if one.record.refused:
        return f"refused: {one.record.refused}"
    return "allowed"


def _text(cell: Any) -> str:
    """A cell as Markdown."""
    if isinstance(cell, Raw):
        return "**served**"
    if cell is None or isinstance(cell, (int, float)):
        return page.short(cell)
    return str(cell).replace("|", "/").replace("\n", " ")


def _time(first: Measured, one: Measured, batch: int) -> str:
    if batch not in one.microseconds:
        return "-"
    found = _microseconds(one.microseconds[batch])
    return found if one is first else f"{found} ({_ratio(first, one, batch)}x)"


def _ratio(first: Measured, one: Measured, batch: int) -> str:
    ratio = first.microseconds[batch] / one.microseconds[batch]
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _of_rows(batch: int) -> str:
    return "1 row" if batch == 1 else f"{batch:,} rows"


def _size(size: int) -> str:
    if not size:
        return "-"
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _legend() -> str:
    return (
        "<p class='lead'>A call goes from the row's arrays to its answer, in one thread, as the server makes it. "
        "Differences are of a probability, or a share of the target's standard deviation in regression; the graph's "
        "are also taken on rows with gaps, unseen categories and outliers, those of int8 at every batch size.</p>"
    )


def _bars(optimised: "Optimised") -> str:
    charts = []
    for batch in optimised.record.batches:
        timed = [one for one in optimised.measured if batch in one.microseconds]
        chart = page.bars([one.record.name for one in timed], [one.microseconds[batch] for one in timed])
        charts.append(f"<h3>{_of_rows(batch)}, µs</h3>{chart}")
    return page.side_by_side(*charts)


def _charts(optimised: "Optimised") -> str:
    """Each file's answers against the first one's, and how far apart they are."""
    first = optimised.measured[0].record.name if optimised.measured else ""
    if first not in optimised.drawn:
        return ""
    base = optimised.drawn[first]
    parts = []
    for one in optimised.measured[1:]:
        found = optimised.drawn.get(one.record.name)
        if found is None or not np.isfinite(found).all():
            continue
        name = one.record.name
        answers = page.scatter(base.tolist(), found.tolist(), x_label=first, y_label=name, diagonal=True)
        counts, edges = np.histogram(found - base, bins=_BINS)
        differences = page.histogram(edges.tolist(), counts.tolist(), x_label=f"{name} minus {first}")
        parts.append(page.side_by_side(f"<h3>{name}</h3>{answers}", f"<h3>Differences</h3>{differences}"))
    return "".join(parts)


def _facts(optimised: "Optimised") -> str:
    record = optimised.record
    return page.fact_list(
        [
            ("rows", record.rows),
            ("quality", record.metric or "unknown: the rows have no target"),
            ("formats in the bundle", ", ".join(optimised.info.formats)),
            ("bundle", optimised.digest),
            ("step", f"{optimised.seconds:.1f} s"),
        ]
    )
