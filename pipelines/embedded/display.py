"""Show a run as it happens: a live table in a terminal, a line for each step elsewhere."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from headway.components.page import short
from headway.pipelines.embedded.steps import Step

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MARKS = {"pending": "·", "running": "›", "succeeded": "✓", "cached": "=", "failed": "✗", "skipped": "–"}  # noqa: RUF001
STYLES = {
    "succeeded": "green",
    "cached": "cyan",
    "failed": "bold red",
    "running": "bold",
    "pending": "dim",
    "skipped": "dim",
}
_SHOWN_METRICS = 4
_REFRESH = 8


class Display:
    """Follows the steps of a run; pass `display.update` as `on_change`.

    Args:
        console: Where to show it, usually standard error.
    """

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self._console = console
        self._steps: dict[int, Step] = {}
        self._began: dict[int, float] = {}
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                get_renderable=self._table,
                console=console,
                refresh_per_second=_REFRESH,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, step: Step) -> None:
        """A step changed."""
        if step.state == "running":
            self._began.setdefault(id(step), time.monotonic())
        self._steps[id(step)] = step
        if self._live is None and step.state not in ("pending", "running"):
            self._console.print(line(step), style=STYLES[step.state], markup=False)

    def _table(self) -> "Table":
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        for step in self._steps.values():
            seconds = time.monotonic() - self._began[id(step)] if step.state == "running" else step.seconds
            shown = "" if step.state == "pending" else f"{seconds:.1f} s"
            grid.add_row(MARKS[step.state], step.name, shown, told(step), style=STYLES[step.state])
        return grid


def line(step: Step) -> str:
    """One step in one line."""
    return f"{MARKS[step.state]} {step.name:<15} {step.seconds:6.1f} s  {told(step)}".rstrip()


def told(step: Step) -> str:
    """What one step has to say: its progress, its result, its reason."""
    if step.state == "running":
        return step.last_line[:100]
    if step.state == "failed":
        return str((step.error or {}).get("message", "")).partition("\n")[0][:120]
    shown = [f"{name} {short(value)}" for name, value in list(step.metrics.items())[:_SHOWN_METRICS]]
    parts = [step.value, " · ".join(shown), f"(cached: {step.reason})" if step.state == "cached" else ""]
    return "  ".join(part for part in parts if part)
