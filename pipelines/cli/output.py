"""How commands print: results on standard output, progress and errors on standard error."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
"""The `--json` option of every command that prints a result."""


def console() -> "Console":
    """The console for results: plain text when it is not a terminal, never cut at 80 columns there."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def error_console() -> "Console":
    """The console for progress and errors, so that standard output stays a clean result."""
    from rich.console import Console

    # Bound to today's standard error: a run sends what its engine prints there to a file.
    return Console(file=sys.stderr, highlight=False, soft_wrap=not sys.stderr.isatty())


def emit(data: Any, *, as_json: bool, render: "Callable[[Console], None]") -> None:
    """Print a result: as one JSON document, or for people.

    Args:
        data: What `--json` prints; paths and dates become text.
        as_json: Whether `--json` was given.
        render: Prints it for people.
    """
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")
    else:
        render(console())
