"""Two charts that only a search needs, as inline SVG in the colours of the report's page."""

import math
from collections.abc import Sequence
from html import escape

from headway.components.page import short
from headway.components.tune.outcome import Row
from headway.components.tune.space import Categorical, Float, Int, Space, scalar_text

_WIDTH, _HEIGHT = 960, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 16, 14, 40
_AXES = 9
_LINES = 150
"""Trials that parallel coordinates show: with more, no line can be followed."""
_CUT = 22


def history(rows: Sequence[Row], best_so_far: Sequence[tuple[int, float]], metric: str) -> str:
    """Each trial's metric by its number, and the best one so far as a line.

    Args:
        rows: Trials with a value; a pruned one stands at its last report, hollow.
        best_so_far: (number, value) of each trial that was the best when it ended, by number.
        metric: The metric's name, for the axis.
    """
    finished = [row.value for row in rows if row.state == "finished" and row.value is not None]
    low, high = _widened(min(finished), max(finished))
    last = max(row.number for row in rows) or 1

    def x(number: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * number / last

    def y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    body = "".join(_grid_line(y(value), value) for value in _round_numbers(low, high))
    body += "".join(
        f'<text x="{x(number):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{number}</text>'
        for number in sorted({round(last * part / 6) for part in range(7)})
    )
    body += _text(_WIDTH / 2, _HEIGHT - 6, "trial") + _turned(metric)
    body += "".join(_dot(x(row.number), y(row.value), row) for row in rows if row.value is not None)
    points = []
    for (number, value), (following, _) in zip(best_so_far, [*best_so_far[1:], (last, 0.0)], strict=True):
        points += [f"{x(number):.1f},{y(value):.1f}", f"{x(following):.1f},{y(value):.1f}"]
    body += f'<polyline class="s1" points="{" ".join(points)}"/>'
    return _svg(body, _HEIGHT)


def parallel_coordinates(space: Space, rows: Sequence[Row], keys: Sequence[str], metric: str) -> str:
    """A line for each finished trial across one axis a parameter, the metric's last; the better, the stronger.

    Args:
        space: The search space, for the axes' ends.
        rows: Finished trials, the best first.
        keys: The parameters to show, the most important first.
        metric: The metric's name.
    """
    shown = list(keys)[: _AXES - 1]
    lines = [row for row in rows[:_LINES] if row.value is not None]
    values = [row.value for row in lines if row.value is not None]
    low, high = _widened(min(values), max(values))
    distance = (_WIDTH - 150) / max(len(shown), 1)
    places = {key: _Axis(space, key) for key in shown}

    def at(row: Row, number: int) -> str:
        if number == len(shown):
            share = ((row.value or 0.0) - low) / (high - low)
        else:
            share = places[shown[number]].share(row.values.get(shown[number], _NOTHING))
        return f"{75 + number * distance:.1f},{_y(share):.1f}"

    body = ""
    for rank, row in reversed(list(enumerate(lines))):
        weight = 1.0 - rank / max(len(lines), 1)
        style = f"stroke-width:{0.8 + 0.8 * weight:.2f};opacity:{0.12 + 0.6 * weight**2:.2f}"
        css = "s0"
        if rank == 0:
            css, style = "s1", "stroke-width:3"
        points = " ".join(at(row, number) for number in range(len(shown) + 1))
        tip = f"trial {row.number}: {metric} {short(row.value)}"
        body += f'<polyline class="{css}" style="{style}" points="{points}"><title>{escape(tip)}</title></polyline>'
    for number, key in enumerate(shown):
        body += _axis(75 + number * distance, key, places[key].ends)
    body += _axis(75 + len(shown) * distance, metric, [(0.0, short(low)), (1.0, short(high))])
    return _svg(body, _HEIGHT + 26)


_NOTHING = object()


class _Axis:
    """Where the values of one key stand on its axis, from 0 at the bottom to 1; below it where the key has none."""

    def __init__(self, space: Space, key: str) -> None:
        domains = [each.domain for each in space if each.key == key]
        numbers = [domain for domain in domains if isinstance(domain, Float | Int)]
        self._texts = list(
            dict.fromkeys(
                scalar_text(value) for domain in domains if isinstance(domain, Categorical) for value in domain.values
            )
        )
        self._log = all(domain.log for domain in numbers)
        self._low = float(min((domain.low for domain in numbers), default=0.0))
        self._high = float(max((domain.high for domain in numbers), default=1.0))
        steps = max(len(self._texts) - 1, 1)
        self.ends = (
            [(0.0, short(self._low)), (1.0, short(self._high))]
            if numbers
            else [(at / steps, text) for at, text in enumerate(self._texts)]
        )

    def share(self, value: object) -> float:
        if value is _NOTHING:
            return -0.08
        if self._texts:
            return self._texts.index(scalar_text(value)) / max(len(self._texts) - 1, 1)  # type: ignore[arg-type]
        number = float(value)  # type: ignore[arg-type]
        if self._log:
            return math.log(number / self._low) / math.log(self._high / self._low)
        return (number - self._low) / (self._high - self._low)


def _axis(x: float, name: str, ends: list[tuple[float, str]]) -> str:
    body = f'<line class="grid" style="stroke-width:1.5" x1="{x:.1f}" x2="{x:.1f}" y1="{_y(0):.1f}" y2="{_y(1):.1f}"/>'
    for share, text in ends:
        body += f'<text x="{x + 5:.1f}" y="{_y(share) + 4:.1f}">{escape(_short_text(text))}</text>'
    label = _short_text(name.removeprefix("parameters."))
    body += f'<text x="{x:.1f}" y="{_HEIGHT + 16}" text-anchor="middle"><title>{escape(name)}</title>'
    return body + f"{escape(label)}</text>"


def _y(share: float) -> float:
    return _HEIGHT - 26 - (_HEIGHT - 46) * share


def _dot(x: float, y: float, row: Row) -> str:
    tip = f"trial {row.number}: {short(row.value)}{'' if row.state == 'finished' else f' ({row.state})'}"
    hollow = "" if row.state == "finished" else ' style="fill:none;stroke:var(--soft)"'
    if row.baseline:
        hollow = ' style="fill:var(--c2);opacity:1"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if row.baseline else 3.2}"{hollow}><title>{tip}</title></circle>'


def _grid_line(y: float, value: float) -> str:
    line = f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'


def _turned(text: str) -> str:
    turn = f'transform="rotate(-90 12 {_HEIGHT / 2})"'
    return f'<text x="12" y="{_HEIGHT / 2}" text-anchor="middle" {turn}>{escape(text)}</text>'


def _svg(body: str, height: int) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" style="max-width:{_WIDTH}px" role="img">{body}</svg>'


def _short_text(text: str) -> str:
    return text if len(text) <= _CUT else text[: _CUT - 1] + "…"


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.06 or abs(low) * 0.05 or 0.5
    return low - margin, high + margin


def _round_numbers(low: float, high: float) -> list[float]:
    """Some four round numbers inside the bounds."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step = next(step * factor for factor in (0.5, 1, 2, 5) if (high - low) / (step * factor) <= 5)
    return [at * step for at in range(math.ceil(low / step), math.floor(high / step) + 1)]
