"""What all our SQL has in common: names and texts, quoted so that no column can be read as anything else; sessions."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def quote_name(name: str) -> str:
    """A column's or a table's name as an SQL identifier.

    Example:
        >>> quote_name('a "b" c')
        '"a ""b"" c"'
    """
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """A text as an SQL literal.

    Example:
        >>> print(quote_text("it's"))
        'it''s'
    """
    return "'" + text.replace("'", "''") + "'"


def quote_texts(texts: Iterable[str]) -> str:
    """Texts as an SQL list.

    Example:
        >>> print(quote_texts(["a", "b"]))
        ['a', 'b']
    """
    return "[" + ", ".join(quote_text(text) for text in texts) + "]"


def settle(connection: "duckdb.DuckDBPyConnection") -> None:
    """Give a session what every one of ours has: times in UTC, and no progress bar between our own lines.

    Args:
        connection: A DuckDB session.
    """
    connection.execute("SET TimeZone = 'UTC'")
    # In a notebook without ipywidgets there is no bar, and DuckDB refuses to have it switched off.
    (shown,) = connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()[0]
    if shown:
        connection.execute("SET enable_progress_bar = false")
