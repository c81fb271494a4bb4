"""Self-contained HTML reports: one look for all, charts as inline SVG, every text escaped.

The Kubeflow Pipelines UI shows a report in a sandboxed frame without network or cookies, so a page carries all it
needs. Colours follow the reader's light or dark setting.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, Literal

Status = Literal["good", "warn", "bad", "neutral"]

WIDTH, HEIGHT = 460, 260
"""Size of a chart in SVG units; it scales to its place."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 14, 40
_LARGEST, _SMALLEST, _RESOLUTION = 1e300, 1e-290, 1e-12
"""Numbers beyond these are drawn at the edge, or as if they were equal: no eye could tell them apart."""


class Raw(str):
    """HTML that is already safe, in a place where text would be escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of a page; a closed one opens on a click."""

    title: str
    body: str
    open: bool = True


@dataclass(frozen=True)
class Series:
    """One line of a chart: xs and ys of equal length."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Interval:
    """One labelled value with its interval."""

    label: str
    low: float
    value: float
    high: float


def page(
    *, title: str, headline: str, status: Status = "neutral", lead: str = "", sections: Iterable[Section] = ()
) -> str:
    """A whole page: the headline says what was decided, the sections say why.

    Args:
        title: The page's name, plain text.
        headline: The first line a reader sees, plain text.
        status: Colours the headline.
        lead: A sentence or two below it; plain text, or `Raw` HTML.
        sections: The parts, whose bodies are HTML made by the functions of this module.
    """
    values = {"title": title, "headline": headline, "status": status, "lead": _cell(lead), "sections": list(sections)}
    return str(_template().render(values))


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, numeric: Iterable[int] = ()) -> str:
    """A table; a cell is text (escaped), a number, or `Raw` HTML.

    Args:
        headers: Column titles.
        rows: Cells, one for each header.
        numeric: Indexes of the columns that are aligned to the right.
    """
    right = frozenset(numeric)

    def row(tag: str, cells: Sequence[Any]) -> str:
        marks = (' class="n"' if i in right else "" for i in range(len(cells)))
        return (
            "<tr>"
            + "".join(f"<{tag}{mark}>{_cell(cell)}</{tag}>" for mark, cell in zip(marks, cells, strict=True))
            + "</tr>"
        )

    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="scroll"><table><thead>{row("th", headers)}</thead><tbody>{body}</tbody></table></div>'


def badge(text: str, status: Status) -> Raw:
    """A coloured word, such as a level or a decision."""
    return Raw(f'<span class="badge {status}">{escape(text)}</span>')


def fact_list(facts: Iterable[tuple[str, Any]]) -> str:
    """Names and values side by side."""
    return (
        '<dl class="facts">'
        + "".join(f"<dt>{escape(name)}</dt><dd>{_cell(value)}</dd>" for name, value in facts)
        + "</dl>"
    )


def side_by_side(*bodies: str) -> str:
    """Several charts or tables in one row, wrapping on a narrow screen."""
    return '<div class="row">' + "".join(f"<div>{body}</div>" for body in bodies) + "</div>"


def histogram(
    edges: Sequence[float], counts: Sequence[float], *, other: Sequence[float] | None = None, x_label: str = ""
) -> str:
    """Bars between edges: `counts` has one value less than `edges`; `other` is drawn over it as an outline."""
    top = max([*counts, *(other or []), 0]) or 1
    frame = _Frame((edges[0], edges[-1]), (0, top))
    bars_ = "".join(
        _bar(frame, left, right, count) for left, right, count in zip(edges, edges[1:], counts, strict=False)
    )
    outline = ""
    if other is not None:
        points = [(x, y) for i, y in enumerate(other) for x in (edges[i], edges[i + 1])]
        outline = _polyline(frame, [p[0] for p in points], [p[1] for p in points], 1, dashed=False)
    return frame.svg(bars_ + outline, x_label=x_label, y_label="")


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str = "",
    y_label: str = "",
    diagonal: bool = False,
    band: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None,
) -> str:
    """Lines over common axes.

    Args:
        series: The lines; several get a legend.
        x_label: Name and unit of the x axis.
        y_label: Name and unit of the y axis.
        diagonal: Whether to draw y = x for comparison.
        band: A shaded area as (xs, lows, highs).
    """
    xs = [x for line in series for x in line.xs]
    ys = [y for line in series for y in line.ys] + (list(band[1]) + list(band[2]) if band else [])
    frame = _Frame(_extent(xs), _extent(ys))
    body = ""
    if band:
        outline = list(zip(band[0], band[2], strict=True)) + list(zip(band[0], band[1], strict=True))[::-1]
        body += f'<polygon class="band" points="{" ".join(frame.point(x, y) for x, y in outline)}"/>'
    if diagonal:
        body += _diagonal(frame)
    for number, line in enumerate(series):
        body += _polyline(frame, line.xs, line.ys, number, dashed=line.dashed)
    return frame.svg(body, x_label=x_label, y_label=y_label) + _legend([line.name for line in series])


def scatter(
    xs: Sequence[float], ys: Sequence[float], *, x_label: str = "", y_label: str = "", diagonal: bool = False
) -> str:
    """Points over axes; some thousands are enough for the eye."""
    frame = _Frame(_extent(xs), _extent(ys))
    body = "".join(f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2"/>' for x, y in zip(xs, ys, strict=True))
    if diagonal:
        body += _diagonal(frame)
    return frame.svg(body, x_label=x_label, y_label=y_label)


def bars(labels: Sequence[str], values: Sequence[float], *, other: Sequence[float] | None = None) -> str:
    """Horizontal bars with their labels, one line each; `other` marks a second value on the same line."""
    top = max([*(abs(v) for v in values), *(abs(v) for v in other or []), 0]) or 1
    step, name_width = 22, 150
    rows = []
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        y, length = i * step + 4, 250 * abs(value) / top
        mark = ""
        if other is not None:
            x = name_width + 250 * abs(other[i]) / top
            mark = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 1}" y2="{y + 17}"/>'
        shown = f"<title>{escape(label)}</title>{escape(_cut(label, 21))}"
        rows.append(
            f'<text x="{name_width - 6}" y="{y + 12}" text-anchor="end">{shown}</text>'
            f'<rect class="bar" x="{name_width}" y="{y}" width="{max(length, 0.5):.1f}" height="16"/>{mark}'
            f'<text x="{name_width + length + 6:.1f}" y="{y + 12}">{short(value)}</text>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {max(len(labels), 1) * step + 6}" role="img">{"".join(rows)}</svg>'


def heat_map(row_labels: Sequence[str], column_labels: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """A table whose cells are shaded by their share of the row, such as a confusion matrix."""
    rows = []
    for label, cells in zip(row_labels, matrix, strict=True):
        total = sum(cells) or 1
        shaded = "".join(
            f'<td class="n" style="--share:{max(cell, 0) / total:.3f}">{short(cell)}</td>' for cell in cells
        )
        rows.append(f"<tr><th>{escape(label)}</th>{shaded}</tr>")
    head = "".join(f"<th>{escape(label)}</th>" for label in column_labels)
    body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="heat">{body}</table></div>'


def intervals(rows: Sequence[Interval], *, reference: float | None = None) -> str:
    """Values with their intervals, one below the other, on one axis; `reference` is drawn as a dashed line."""
    points = [x for row in rows for x in (row.low, row.high)] + ([reference] if reference is not None else [])
    low, high = _extent(points)
    name_width, step, width = 150, 24, 280

    def x(value: float) -> float:
        return name_width + width * (value - low) / (high - low)

    height = max(len(rows), 1) * step + 26
    body = ""
    if reference is not None:
        body += f'<line class="dashed" x1="{x(reference):.1f}" x2="{x(reference):.1f}" y1="0" y2="{height - 22}"/>'
    for i, row in enumerate(rows):
        y = i * step + 12
        tip = f"<title>{short(row.value)} [{short(row.low)}, {short(row.high)}]</title>"
        body += (
            f'<text x="{name_width - 8}" y="{y + 4}" text-anchor="end">{escape(_cut(row.label, 21))}</text>'
            f'<line class="s0" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{x(row.value):.1f}" cy="{y}" r="4">{tip}</circle>'
        )
    ends = "".join(
        f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="{anchor}">{short(value)}</text>'
        for value, anchor in ((low, "start"), (high, "end"))
    )
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{body}{ends}</svg>'


def short(value: Any) -> str:
    """A number as people write it in a chart: four significant digits, thousands apart.

    Example:
        >>> short(0.123456), short(1234567), short(12.0), short(None)
        ('0.1235', '1,234,567', '12', '-')
    """
    if value is None:
        return "-"
    number = float(value)
    if not math.isfinite(number):
        return "-"
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4g}"


class _Frame:
    """Axes of a chart: data coordinates to SVG coordinates."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self.xs, self.ys = _widened(xs), _widened(ys)

    def x(self, value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * _place(value, self.xs)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * _place(value, self.ys)

    def point(self, x: float, y: float) -> str:
        return f"{self.x(x):.1f},{self.y(y):.1f}"

    def svg(self, body: str, *, x_label: str, y_label: str) -> str:
        lines = []
        for tick in _ticks(*self.ys):
            y = self.y(tick)
            lines.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
        for tick in _ticks(*self.xs):
            lines.append(
                f'<text x="{self.x(tick):.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{short(tick)}</text>'
            )
        lines.append(f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
        turned = f'transform="rotate(-90 12 {HEIGHT / 2})"'
        lines.append(f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" {turned}>{escape(y_label)}</text>')
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(lines)}{body}</svg>'


def _place(value: float, bounds: tuple[float, float]) -> float:
    """Where a value lies between bounds, 0 to 1; what lies outside is drawn at the edge."""
    low, high = bounds
    return (min(max(value, low), high) - low) / (high - low)


def _bar(frame: _Frame, left: float, right: float, count: float) -> str:
    x, y = frame.x(left), frame.y(count)
    width = max(frame.x(right) - x - 0.6, 0.6)
    return f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(frame.y(0) - y, 0):.1f}"/>'


def _polyline(frame: _Frame, xs: Sequence[float], ys: Sequence[float], number: int, *, dashed: bool) -> str:
    points = " ".join(frame.point(x, y) for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="s{number}{" dashed" if dashed else ""}" points="{points}"/>'


def _diagonal(frame: _Frame) -> str:
    """The part of y = x that both axes show."""
    low, high = max(frame.xs[0], frame.ys[0]), min(frame.xs[1], frame.ys[1])
    return _polyline(frame, [low, high], [low, high], 9, dashed=True) if low < high else ""


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    return (
        '<p class="legend">'
        + "".join(f'<span class="s{i}">{escape(name)}</span>' for i, name in enumerate(names))
        + "</p>"
    )


def _extent(values: Sequence[float]) -> tuple[float, float]:
    known = [float(value) for value in values if math.isfinite(value)]
    return _widened((min(known), max(known))) if known else (0.0, 1.0)


def _widened(bounds: tuple[float, float]) -> tuple[float, float]:
    """Bounds that are apart far enough to divide by their distance, and near enough not to overflow."""
    low, high = (min(max(float(bound), -_LARGEST), _LARGEST) for bound in bounds)
    size = max(abs(low), abs(high))
    if high - low > size * _RESOLUTION and high - low > _SMALLEST:
        return low, high
    margin = size * 0.05 if size > _SMALLEST else 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers inside the bounds (Heckbert 1990, "Nice numbers for graph labels")."""
    raw = (high - low) / about
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(magnitude * nice for nice in (1, 2, 5, 10) if magnitude * nice >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _cell(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if value is None:
        return "-"
    if isinstance(value, float):
        return short(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(str(value))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


@cache
def _template() -> Any:
    from jinja2 import Environment

    text = files("headway.components").joinpath("page.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
