"""Tables for people: fitted to a terminal, and one line for each row everywhere else."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 10_000
"""Columns of a table that goes into a file or a pipe, where nothing may wrap."""


def print_table(console: "Console", headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings.

    Args:
        console: Where to.
        headings: A heading for each column.
        rows: A text for each column; brackets in it are text, never markup.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)
