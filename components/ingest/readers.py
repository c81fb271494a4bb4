"""CSV and Parquet files as relations that SQL can select from."""

# ruff: noqa: S608 - SQL here is put together from our own text and from names that quote_name() and quote_text() quote.

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headway.components.data_validate.contract import ColumnType
from headway.components.errors import SourceError
from headway.components.ingest.columns import Relation, guess_types
from headway.components.ingest.engine import describe, refuse_duplicates
from headway.components.ingest.files import SourceFile, encoding_error, no_rights, open_text_bytes
from headway.components.sql import quote_text, quote_texts

_OTHER_DELIMITERS = {";": ";", "\t": "\\t", "|": "|", ",": ","}
_ROWS_TO_COMPARE = 5_000
_LINE = re.compile(r"CSV Error on Line: (\d+)")
_FIELDS = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")
_FILE = re.compile(r"file = (.+)")


def csv_relation(
    connection: Any,
    files: Sequence[SourceFile],
    *,
    delimiter: str,
    nulls: Sequence[str] | None,
    declared: Mapping[str, ColumnType],
) -> Relation:
    """CSV files as one relation whose columns are all unread texts.

    Args:
        connection: An open DuckDB connection.
        files: UTF-8 files, plain or gzipped.
        delimiter: One character; empty means a comma, or a tab in a .tsv file.
        nulls: Texts that mean a missing value in every column.
        declared: Columns whose type somebody asked for.

    Raises:
        SourceError: A file is empty or not UTF-8, its header is unusable, or files disagree on columns or types.
    """
    headers = [_header(file, delimiter) for file in files]
    _same_columns(files, headers)
    by_header: dict[tuple[str, ...], list[SourceFile]] = {}
    for file, header in zip(files, headers, strict=True):
        by_header.setdefault(tuple(header), []).append(file)
    selects = [f"SELECT * FROM {_read_csv(some, header, delimiter, nulls)}" for header, some in by_header.items()]
    relation = Relation(
        f"({' UNION ALL BY NAME '.join(selects)})", [(name, "VARCHAR") for name in headers[0]], text=True
    )
    if len(files) > 1:
        singles = [
            Relation(_read_csv([file], header, delimiter, nulls), relation.columns, text=True)
            for file, header in zip(files, headers, strict=True)
        ]
        _same_types(connection, files, singles, [name for name in headers[0] if name not in declared], nulls)
    return relation


def parquet_relation(connection: Any, files: Sequence[SourceFile]) -> Relation:
    """Parquet files as one relation.

    Raises:
        SourceError: A file is not Parquet, has no columns, or files disagree on columns or types.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from headway.components.ingest.digest import canonical_type

    schemas = []
    for file in files:
        try:
            schemas.append(pq.read_schema(file.path))
        except PermissionError:
            raise no_rights(file.name) from None
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(f"{file.name}: not a Parquet file ({str(error).splitlines()[0]})") from None
    headers = [list(schema.names) for schema in schemas]
    for file, header in zip(files, headers, strict=True):
        if not header:
            raise SourceError(f"{file.name}: has no columns", expected="a table with at least one column")
        refuse_duplicates(header, file.name)
    _same_columns(files, headers)
    for name in headers[0]:
        kinds = [canonical_type(schema.field(name).type, name) for schema in schemas]
        _one_type(name, [(file.name, kind) for file, kind in zip(files, kinds, strict=True)])
    hive = "true" if any("=" in part for file in files for part in file.path.parts[:-1]) else "false"
    paths = quote_texts(str(file.path) for file in files)
    sql = f"read_parquet({paths}, union_by_name = true, hive_partitioning = {hive})"
    return Relation(sql, describe(connection, sql))


def csv_error(text: str, files: Sequence[SourceFile]) -> SourceError:
    """DuckDB's complaint about a CSV file as an error that names the file, the line and the remedy."""
    named = _FILE.search(text)
    path = named[1].strip() if named else ""
    file = next((file for file in files if str(file.path) == path), files[0])
    line = _LINE.search(text)
    place = f"{file.name}, line {line[1]}" if line else file.name
    fields = _FIELDS.search(text)
    if fields:
        return SourceError(
            f"{place}: {fields[2]} fields where the header has {fields[1]}",
            expected="as many fields in each line as in the header",
            fix="put values that hold the delimiter into double quotes, or set `delimiter`",
        )
    if "unicode" in text or "utf-8" in text.lower():
        return encoding_error(file, "utf-8")
    if "unterminated quote" in text:
        return SourceError(
            f"{place}: a double quote is opened and never closed",
            expected='a quote inside a quoted value written twice ("")',
        )
    return SourceError(f"{place}: not readable as CSV ({text.splitlines()[0]})")


def check_header(path: Path, delimiter: str = "") -> list[str]:
    """The column names of a CSV file.

    Raises:
        SourceError: It is empty, not text, or its columns cannot be told apart.
    """
    return _header(SourceFile(path, str(path)), delimiter)


def _delimiter(file: SourceFile, delimiter: str) -> str:
    return delimiter or ("\t" if ".tsv" in file.name.lower() else ",")


def _header(file: SourceFile, delimiter: str) -> list[str]:
    try:
        with open_text_bytes(file.path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            names = next(csv.reader(text, delimiter=_delimiter(file, delimiter), strict=True), None)
    except PermissionError:
        raise no_rights(file.name) from None
    except UnicodeDecodeError:
        raise encoding_error(file, "utf-8") from None
    except (OSError, EOFError, csv.Error) as error:
        raise SourceError(f"{file.name}: the header cannot be read ({error})") from None
    if not names:
        raise SourceError(
            f"{file.name}: the file is empty" if names is None else f"{file.name}: the first line is empty",
            expected="a first line with the names of the columns, then rows",
        )
    used = _delimiter(file, delimiter)
    other = next((sign for sign in _OTHER_DELIMITERS if sign != used and sign in names[0]), None)
    if len(names) == 1 and other:
        raise SourceError(
            f"{file.name}: the header is one column, {names[0][:80]!r}",
            expected=f"columns between {_OTHER_DELIMITERS.get(used, used)!r}",
            fix=f'set `delimiter: "{_OTHER_DELIMITERS[other]}"` in the source',
        )
    refuse_duplicates(names, file.name)
    return names


def _read_csv(files: Sequence[SourceFile], header: Sequence[str], delimiter: str, nulls: Sequence[str] | None) -> str:
    columns = ", ".join(f"{quote_text(name)}: 'VARCHAR'" for name in header)
    # Nothing is sniffed: what a file holds must not depend on which of its rows a sample hits.
    return (
        f"read_csv({quote_texts(str(file.path) for file in files)}, auto_detect = false, header = true, "
        f"columns = {{{columns}}}, delim = {quote_text(_delimiter(files[0], delimiter))}, quote = '\"', escape = '\"', "
        f"nullstr = {quote_texts(['', *(nulls or ())])}, allow_quoted_nulls = false, hive_partitioning = false)"
    )


def _same_columns(files: Sequence[SourceFile], headers: Sequence[Sequence[str]]) -> None:
    first = set(headers[0])
    for file, header in zip(files[1:], headers[1:], strict=True):
        lacking, extra = sorted(first - set(header)), sorted(set(header) - first)
        if lacking or extra:
            differences = [f"lacks {', '.join(lacking)}"] if lacking else []
            differences += [f"adds {', '.join(extra)}"] if extra else []
            raise SourceError(
                f"{file.name} has other columns than {files[0].name}: it {' and '.join(differences)}",
                expected="the same columns in all files of one source",
            )


def _same_types(
    connection: Any,
    files: Sequence[SourceFile],
    singles: Sequence[Relation],
    names: Sequence[str],
    nulls: Sequence[str] | None,
) -> None:
    guesses = [guess_types(connection, one, names, rows=_ROWS_TO_COMPARE, nulls=nulls) for one in singles]
    for name in names:
        _one_type(name, [(file.name, guess[name]) for file, guess in zip(files, guesses, strict=True)])


def _one_type(name: str, kinds: Sequence[tuple[str, ColumnType | None]]) -> None:
    """Refuse a column that is one thing in one file and another in the next; whole numbers are numbers."""
    first: dict[ColumnType, str] = {}
    for file, kind in kinds:
        if kind is not None:
            first.setdefault(ColumnType.NUMBER if kind is ColumnType.INTEGER else kind, file)
    if len(first) > 1:
        (one, one_file), (other, other_file) = list(first.items())[:2]
        raise SourceError(
            f"Column {name!r} is a {one} in {one_file} and a {other} in {other_file}",
            expected="one type in all files of one source",
            fix=f"declare it in the contract, or in the source with `columns: {{{name}: string}}`",
        )
