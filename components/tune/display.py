"""A search as it happens, on standard error: a live line in a terminal, a line for each trial elsewhere."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from headway.components.page import short
from headway.components.tune.outcome import Row
from headway.components.tune.report import shown

if TYPE_CHECKING:
    from rich.console import Console

    from headway.components.tune.search import Progress

_REFRESH = 4


class Lines:
    """Follows a search; pass `lines.update` as `on_progress`.

    Args:
        metric: The metric's name.
        console: Where to show it; standard error by default.
    """

    def __init__(self, metric: str, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._metric = metric
        self._console = console or Console(file=sys.stderr, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._best: int | None = None
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=_REFRESH, transient=True)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, progress: "Progress") -> None:
        """The search went on."""
        if progress.last is not None:
            new = progress.best is not None and progress.best.number != self._best
            self._best = progress.best.number if progress.best else None
            style = "bold green" if new else ("red" if progress.last.state == "failed" else "dim")
            self._console.print(line(progress, self._metric), style=style, markup=False)
        if self._live:
            self._live.update(_standing(progress, self._metric))


def line(progress: "Progress", metric: str) -> str:
    """The trial that has just ended, and how the search stands, in one line."""
    row = progress.last
    if row is None:
        return _standing(progress, metric)
    result = row.error.partition("\n")[0][:100] if row.error else f"{metric} {short(row.value)}"
    took = f"{row.seconds:.1f} s" if row.seconds is not None else ""
    return f"trial {row.number:<4} {row.state:<11} {result}  {took}  {_values(row)} | {_standing(progress, metric)}"


def duration(seconds: float) -> str:
    """A time to wait, as people say it.

    Example:
        >>> duration(42.3), duration(150), duration(9000)
        ('42 s', '2.5 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _standing(progress: "Progress", metric: str) -> str:
    best = progress.best
    parts = [f"{progress.done}/{progress.total} trials"]
    parts += [f"{progress.running} running"] if progress.running else []
    parts += [f"best {metric} {short(best.value)} (trial {best.number})"] if best else []
    parts += [f"{duration(progress.left)} left"] if progress.left else []
    return ", ".join(parts)


def _values(row: Row) -> str:
    return " ".join(f"{key.removeprefix('parameters.')}={shown(value)}" for key, value in row.values.items())
