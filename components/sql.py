"""Names and texts as SQL, quoted so that no column can be read as anything else."""

from collections.abc import Iterable


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
