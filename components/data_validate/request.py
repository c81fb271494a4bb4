"""The contract as a check of one request, of a batch of columns, and of many records.

What a request must hold:

- Every feature of the contract, by name. One that is not `required`, or whose column may have missing values, may be
  null or left out; the result then has None.
- Columns with the role info or weight that are known at prediction may be sent along; they are not looked at.
- The target and columns that are known only with the outcome are refused, and so is any unknown name.

What comes back holds the features alone, in the contract's order, as the model takes them: a number is a float, an
integer an int (3.0 is one; "3" and true are not), a timestamp a `datetime` in UTC without a zone (ISO 8601 text with an
offset is converted, text without one is taken as UTC). NaN and infinity are refused.

Rules of level block and quarantine refuse; rules of level warn only add to `warnings`. A value that cannot be read as
its type is refused whatever `type_level` says, because no model can take it. Rules over several rows (unique, monotone,
missing share) and the contract's SQL `rules` belong to tables, and are checked there.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from headway.components.data_validate.contract import Column, ColumnType, Contract, Level, Range, Role
from headway.components.data_validate.readers import Reader, RefusedError, Vector, plain, reader, vector
from headway.components.errors import RequestError, did_you_mean

Failure = dict[str, Any]
"""One wrong field: `field`, `expected`, `got`, and `row` where there are several."""

MAX_FAILURES = 100
"""How many failures one error carries at most."""
SHOWN = 80
"""How many characters of a value or a name a failure shows."""

_HINTS = 3
"""Near names are looked for in this many unknown fields of a request: the search is slow."""
_ABSENT: Final = object()
_TYPE_WORDS: Final = {
    ColumnType.INTEGER: "an integer",
    ColumnType.NUMBER: "a finite number",
    ColumnType.BOOLEAN: "true or false",
    ColumnType.STRING: "a text",
    ColumnType.TIMESTAMP: "a time in ISO 8601",
}


@dataclass(frozen=True, slots=True)
class _Field:
    """One feature, compiled."""

    name: str
    read: Reader
    """Type, null and the rules that refuse."""
    warns: Reader | None
    """The same with the rules that only warn added, or None when there are none."""
    expected: str
    expected_by_warning: str
    column: Column
    texts: frozenset[str]
    """The allowed values of a string column, for near names."""
    vector: Vector
    """Reads many values at once, none of them None."""
    nullable: bool


class RequestCheck:
    """A compiled contract. It has no state of its own, so threads may share it.

    Args:
        contract: What a request must be.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.fields = tuple(_compile(name, column) for name, column in contract.features.items())
        self._readers = tuple((field.name, field.read) for field in self.fields)
        self._warning_fields = tuple((field, field.warns) for field in self.fields if field.warns is not None)
        ignored = {
            name
            for name, column in contract.columns.items()
            if column.role in (Role.INFO, Role.WEIGHT) and column.known == "prediction"
        }
        self._accepted = frozenset(contract.features) | ignored

    def check(self, record: dict[str, Any], warnings: list[Failure] | None = None) -> dict[str, Any]:
        """Check one request.

        Args:
            record: The fields by name, as JSON parses them.
            warnings: Takes what rules of level warn found; those rules are skipped when it is None.

        Returns:
            The features in the contract's order, as the model takes them.

        Raises:
            RequestError: Something is wrong with it; carries every failure, up to MAX_FAILURES.

        Example:
            >>> contract = Contract.parse("{name: t, columns: {distance: {type: number, range: {min: 0}}}}")
            >>> compile_request(contract).check({"distance": 17})
            {'distance': 17.0}
        """
        try:
            if not isinstance(record, dict):
                raise RefusedError
            clean = self._read(record)
        except RefusedError:
            raise RequestError(_capped(self._failures(record))) from None
        if warnings is not None:
            warnings.extend(self._warnings(clean))
        return clean

    def _read(self, record: dict[str, Any]) -> dict[str, Any]:
        try:
            clean = {name: read(record[name]) for name, read in self._readers}
        except KeyError:
            clean = {name: read(record.get(name)) for name, read in self._readers}
        else:
            # Every feature is there, so that only a longer request can hold an unknown field.
            if len(record) == len(clean):
                return clean
        if not record.keys() <= self._accepted:
            raise RefusedError
        return clean

    def check_many(
        self, records: Sequence[dict[str, Any]], warnings: list[Failure] | None = None
    ) -> list[dict[str, Any]]:
        """Check a list of requests; failures and warnings carry their `row`, counted from 0.

        Raises:
            RequestError: Any of them is wrong, or it is not a list.
        """
        if not isinstance(records, (list, tuple)):
            raise RequestError([_failure("", "a list of objects, one for each row", _shown(records))])
        clean: list[dict[str, Any]] = []
        failures: list[Failure] = []
        for row, record in enumerate(records):
            found: list[Failure] | None = None if warnings is None else []
            try:
                clean.append(self.check(record, found))
            except RequestError as error:
                failures += [{**failure, "row": row} for failure in error.failures]
                if len(failures) > MAX_FAILURES:
                    break
            if warnings is not None and found:
                warnings += [{**warning, "row": row} for warning in found]
        if failures:
            raise RequestError(_capped(iter(failures)))
        return clean

    def check_batch(
        self, columns: Mapping[str, Sequence[Any]], warnings: list[Failure] | None = None
    ) -> dict[str, list[Any]]:
        """Check a batch given by column: the same rules, many values at once.

        Args:
            columns: A list of values for each field, all of one length.
            warnings: As in `check`; each carries its `row`.

        Returns:
            The features in the contract's order, a list each.

        Raises:
            RequestError: Any value is wrong (with its `row`), a column is missing, or the lengths differ.
        """
        size = _common_length(columns)
        failures = list(self._unknown(columns))
        clean: dict[str, list[Any]] = {}
        for field in self.fields:
            values = columns.get(field.name)
            if values is None:
                if not field.nullable:
                    failures.append(_failure(field.name, field.expected, "nothing: the field is missing"))
                clean[field.name] = [None] * size
                continue
            clean[field.name] = _read_column(field, _as_list(values), failures)
        if failures:
            raise RequestError(_capped(iter(failures)))
        if warnings is not None:
            rows = ({field.name: clean[field.name][row] for field, _ in self._warning_fields} for row in range(size))
            warnings += [{**warning, "row": row} for row, one in enumerate(rows) for warning in self._warnings(one)]
        return clean

    def _warnings(self, clean: dict[str, Any]) -> Iterator[Failure]:
        for field, read in self._warning_fields:
            value = clean[field.name]
            try:
                read(value)
            except RefusedError:
                yield _failure(field.name, field.expected_by_warning + _near_value(field, value), _shown(value))

    def _failures(self, record: Any) -> Iterator[Failure]:
        """Everything wrong with a record that was refused."""
        if not isinstance(record, dict):
            yield _failure("", "an object with a field for each feature", _shown(record))
            return
        for field in self.fields:
            value = record.get(field.name, _ABSENT)
            try:
                field.read(None if value is _ABSENT else value)
            except RefusedError:
                got = "nothing: the field is missing" if value is _ABSENT else _shown(value)
                yield _failure(field.name, field.expected + _near_value(field, value), got)
        yield from self._unknown(record)

    def _unknown(self, names: Iterable[Any]) -> Iterator[Failure]:
        unknown = [name for name in names if name not in self._accepted]
        for position, name in enumerate(unknown):
            expected = "no field of this name"
            if isinstance(name, str) and name in self.contract.columns:
                expected = "a request without it: the value is known only with the outcome"
            elif isinstance(name, str) and position < _HINTS and len(name) <= SHOWN:
                expected += did_you_mean(name, list(self.contract.features)[:1_000])
            yield _failure(_shown_name(name), expected, "a field that the contract does not take")


def compile_request(contract: Contract) -> RequestCheck:
    """The check of one request under a contract, compiled once and used for every request."""
    return RequestCheck(contract)


def _compile(name: str, column: Column) -> _Field:
    nullable = column.nullable or not column.required
    read = reader(column, nullable, warn=False)
    has_warnings = any(rule and rule.level is Level.WARN for rule in (column.range, column.values, column.pattern))
    texts = column.values.allowed if column.values and column.type is ColumnType.STRING else []
    return _Field(
        name=name,
        read=read,
        warns=reader(column, True, warn=True) if has_warnings else None,
        expected=expectation(column, nullable, warn=False),
        expected_by_warning=expectation(column, nullable, warn=True),
        column=column,
        texts=frozenset(str(text) for text in texts),
        vector=vector(column, read),
        nullable=nullable,
    )


def _read_column(field: _Field, values: list[Any], failures: list[Failure]) -> list[Any]:
    fast = _read_fast(field, values)
    if fast is not None:
        return fast
    clean: list[Any] = []
    for row, value in enumerate(values):
        try:
            clean.append(field.read(value))
        except RefusedError:
            expected = field.expected + _near_value(field, value)
            failures.append({**_failure(field.name, expected, _shown(value)), "row": row})
            if len(failures) > MAX_FAILURES:
                break
    return clean


def _read_fast(field: _Field, values: list[Any]) -> list[Any] | None:
    """The values as the model takes them, or None when at least one needs a closer look."""
    holes = type(None) in set(map(type, values))
    if holes and not field.nullable:
        return None
    try:
        if not holes:
            return field.vector(values)
        dense = iter(field.vector([value for value in values if value is not None]))
        return [None if value is None else next(dense) for value in values]
    except RefusedError:
        return None


def _common_length(columns: Any) -> int:
    if not isinstance(columns, Mapping):
        raise RequestError([_failure("", "an object with a list for each feature", _shown(columns))])
    wrong = [
        _failure(_shown_name(name), "a list of values", _shown(values))
        for name, values in columns.items()
        if not (isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim == 1))
    ]
    if wrong:
        raise RequestError(_capped(iter(wrong)))
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise RequestError([_failure("", "lists of one length", f"lengths from {min(lengths)} to {max(lengths)}")])
    return lengths.pop() if lengths else 0


def _as_list(values: Sequence[Any]) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


# Words.


def expectation(column: Column, nullable: bool, *, warn: bool) -> str:
    """What a field must be, in words: `a number from 17 to 5000 (miles), or null`."""

    def counts(rule: Any) -> bool:
        return rule is not None and (rule.level is Level.WARN) is warn

    words = _TYPE_WORDS[column.type]
    if column.range and counts(column.range):
        words += _between(column.range)
    if column.unit:
        words += f" ({column.unit})"
    if column.values and counts(column.values):
        shown = ", ".join(repr(value)[:SHOWN] for value in column.values.allowed[:10])
        more = len(column.values.allowed) - 10
        words = f"one of {shown}" + (f" and {more} more" if more > 0 else "")
    if column.pattern and counts(column.pattern):
        words += f" that matches {column.pattern.regex}"
    return words + (", or null" if nullable else "")


def _between(rule: Range) -> str:
    if rule.min is None:
        return f" of at most {rule.max}"
    if rule.max is None:
        return f" of at least {rule.min}"
    return f" from {rule.min} to {rule.max}"


def _near_value(field: _Field, value: Any) -> str:
    if not isinstance(value, str) or len(value) > SHOWN or not field.texts or len(field.texts) > 1_000:
        return ""
    return "" if value in field.texts else did_you_mean(value, field.texts)


def _failure(field: str, expected: str, got: str) -> Failure:
    return {"field": field, "expected": expected, "got": got}


def _capped(failures: Iterator[Failure]) -> list[Failure]:
    return list(itertools.islice(failures, MAX_FAILURES))


def _shown_name(name: Any) -> str:
    return name[:SHOWN].encode("utf-8", "backslashreplace").decode() if isinstance(name, str) else _shown(name)


def _shown(value: Any) -> str:
    """A value in at most SHOWN characters, whatever it is: long, deep, or half a character."""
    value = plain(value)
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)} items"
    if isinstance(value, dict):
        return f"an object with {len(value)} fields"
    if type(value) is int and value.bit_length() > 256:
        # Python refuses to write very long integers in decimal.
        return f"an integer of {value.bit_length()} bits"
    if value is None or type(value) is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if type(value) not in (int, float, str):
        return f"a {type(value).__name__}"[:SHOWN]
    text = repr(value[: SHOWN + 1]) if type(value) is str else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
