"""What changes for others when one contract replaces another.

A change is breaking when somebody who satisfied the old contract can be refused by the new one (a producer of tables, a
client of the model), or when the model's inputs or its target change.

    breaking                                          not breaking
    a column that must be there is added              an optional column is added
    the target, or a column that a request may send,  a column known only with the outcome is removed
      is removed
    a feature's role or `known` changes, or another   any other change of role
      column becomes a feature that must be sent
    the order of the features changes                 the order of other columns
    a type changes, but integer to number             integer to number
    `required` is turned on                           `required` is turned off
    the missing share falls                           the missing share rises
    a range narrows, values are removed, a pattern    a range widens, values are added, a pattern is removed
      changes, a rule or expression is added            or an expression is removed
    a level rises to one that refuses more            a level falls
    the key changes, freshness shortens, the number   the key is removed, freshness lengthens, the number of rows
      of rows is limited more                           is limited less
    unknown columns are refused                       name, description, unit, time

A rule of level `warn` refuses nobody: adding or tightening one is never breaking.
The order of the features counts because a client may send rows as plain lists.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from headway.components.data_validate.contract import (
    Bound,
    Column,
    ColumnType,
    Contract,
    Level,
    Range,
    Role,
    Rows,
    Rule,
    read_moment,
)

_STRENGTH = {Level.WARN: 0, Level.QUARANTINE: 1, Level.BLOCK: 2}
_SHOWN = 5


@dataclass(frozen=True)
class Change:
    """One difference between two contracts."""

    where: str
    """The column, the rule or the part of the contract: `columns.distance`, `key`."""
    breaking: bool
    sentence: str
    """What changed, from what to what."""

    def as_dict(self) -> dict[str, Any]:
        """The change as plain values, for JSON."""
        return asdict(self)


def diff(old: Contract, new: Contract) -> list[Change]:
    """Every difference, in the order of the document; the module's table says which are breaking.

    Example:
        >>> old = Contract.parse("{name: t, columns: {x: {type: number, range: {min: 0}}}}")
        >>> new = Contract.parse("{name: t, columns: {x: {type: number, range: {min: 1}}}}")
        >>> [(change.breaking, change.sentence) for change in diff(old, new)]
        [(True, 'range narrows from at least 0 to at least 1')]
    """
    return [*_head(old, new), *_columns(old, new), *_table_rules(old, new)]


def is_breaking(changes: Iterable[Change]) -> bool:
    """Whether any of the changes is breaking."""
    return any(change.breaking for change in changes)


def _head(old: Contract, new: Contract) -> Iterator[Change]:
    if old.name != new.name:
        yield Change("name", False, f"name changes from {old.name!r} to {new.name!r}")
    if old.description != new.description:
        yield Change("description", False, "description changes")
    if old.target != new.target:
        yield Change("target", True, f"target changes from {old.target!r} to {new.target!r}")
    if old.time != new.time:
        yield Change("time", False, f"time changes from {old.time!r} to {new.time!r}")


def _columns(old: Contract, new: Contract) -> Iterator[Change]:
    for name, column in old.columns.items():
        if name not in new.columns:
            # Unknown fields of a request are refused, so one that was only looked past counts as well.
            breaking = column.known == "prediction" or name == old.target or new.extra_columns == "block"
            yield Change(f"columns.{name}", breaking, f"the {column.role} is removed")
        else:
            yield from _column(f"columns.{name}", column, new.columns[name])
    for name, column in new.columns.items():
        if name not in old.columns:
            must = "must be there" if column.required else "is optional"
            yield Change(
                f"columns.{name}", column.required, f"a {column.role} of type {column.type} is added; it {must}"
            )
    before = [name for name in old.features if name in new.features]
    after = [name for name in new.features if name in old.features]
    if before != after:
        yield Change("columns", True, "the order of the features changes: a client that sends plain lists is misread")
    elif [name for name in old.columns if name in new.columns] != [name for name in new.columns if name in old.columns]:
        yield Change("columns", False, "the order of the columns changes, that of the features does not")


def _column(where: str, old: Column, new: Column) -> Iterator[Change]:
    if old.type is not new.type:
        widened = old.type is ColumnType.INTEGER and new.type is ColumnType.NUMBER
        yield Change(where, not widened, f"type changes from {old.type} to {new.type}")
    if old.role is not new.role:
        breaking = Role.FEATURE in (old.role, new.role) or Role.TARGET in (old.role, new.role)
        yield Change(where, breaking, f"role changes from {old.role} to {new.role}")
    if old.known != new.known:
        yield Change(where, new.known == "outcome", f"known changes from {old.known} to {new.known}")
    if old.required != new.required:
        yield Change(where, new.required, f"becomes {'required' if new.required else 'optional'}")
    if old.type_level is not new.type_level:
        yield _level(where, "type", old.type_level, new.type_level)
    yield from _missing(where, old, new)
    yield from _ranges(where, old.range, new.range)
    yield from _values(where, old, new)
    for kind in ("pattern", "unique", "monotone"):
        yield from _plain_rule(where, kind, getattr(old, kind), getattr(new, kind))
    for kind in ("unit", "description"):
        if getattr(old, kind) != getattr(new, kind):
            yield Change(where, False, f"{kind} changes")


def _level(where: str, what: str, old: Level, new: Level) -> Change:
    verb = "rises" if _STRENGTH[new] > _STRENGTH[old] else "falls"
    return Change(where, verb == "rises", f"the level of {what} {verb} from {old} to {new}")


def _appears(where: str, what: str, old: Rule | None, new: Rule | None) -> Iterator[Change]:
    """A rule that only one of the two has, or has with another level."""
    if old is None and new is not None:
        yield Change(where, _refuses(new), f"{what} is added with level {new.level}")
    elif new is None and old is not None:
        yield Change(where, False, f"{what} is removed")
    elif old is not None and new is not None and old.level is not new.level:
        yield _level(where, what, old.level, new.level)


def _refuses(rule: Rule) -> bool:
    return rule.level is not Level.WARN


def _missing(where: str, old: Column, new: Column) -> Iterator[Change]:
    before, after = old.missing.max_share, new.missing.max_share
    if before != after:
        verb = "falls" if after < before else "rises"
        breaking = after < before and (_refuses(new.missing) or (old.nullable and not new.nullable))
        yield Change(where, breaking, f"the missing share {verb} from {before:g} to {after:g}")
    yield from _appears(where, "missing", old.missing, new.missing)


def _ranges(where: str, old: Range | None, new: Range | None) -> Iterator[Change]:
    yield from _appears(where, "range", old, new)
    if old is None or new is None or (old.min, old.max) == (new.min, new.max):
        return
    narrows = _above(new.min, old.min) or _above(old.max, new.max, open_end=1)
    verb = "narrows" if narrows else "widens"
    yield Change(where, narrows and _refuses(new), f"range {verb} from {_words(old)} to {_words(new)}")


def _above(first: Bound | None, second: Bound | None, *, open_end: int = -1) -> bool:
    """Whether one bound is above another; a bound that is not given lies at the open end, -1 below or 1 above."""

    def place(bound: Bound | None) -> tuple[int, Any]:
        if bound is None:
            return open_end, 0
        return 0, read_moment(bound) if isinstance(bound, str) else bound

    one, other = place(first), place(second)
    if one[0] != other[0]:
        return one[0] > other[0]
    # A number against a time is never alike: the column's type changed.
    return isinstance(first, str) != isinstance(second, str) or one[1] > other[1]


def _words(rule: Range) -> str:
    if rule.min is None:
        return f"at most {rule.max}"
    return f"at least {rule.min}" if rule.max is None else f"{rule.min} to {rule.max}"


def _values(where: str, old: Column, new: Column) -> Iterator[Change]:
    yield from _appears(where, "values", old.values, new.values)
    if old.values is None or new.values is None:
        return
    before, after = old.values.allowed, new.values.allowed
    removed, added = [v for v in before if v not in after], [v for v in after if v not in before]
    if removed:
        yield Change(where, _refuses(new.values), f"values lose {_some(removed)}")
    if added:
        yield Change(where, False, f"values gain {_some(added)}")


def _some(values: list[Any]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(repr(value) for value in values[:_SHOWN]) + more


def _plain_rule(where: str, what: str, old: Rule | None, new: Rule | None) -> Iterator[Change]:
    """A rule whose settings are either equal or not: any change can refuse what passed before."""
    yield from _appears(where, what, old, new)
    if old is None or new is None:
        return
    before, after = old.model_dump(mode="json", exclude={"level"}), new.model_dump(mode="json", exclude={"level"})
    if before != after:
        loosened = before.get("strict") is True and after.get("strict") is False
        yield Change(
            where, _refuses(new) and not loosened, f"{what} changes from {_inline(before)} to {_inline(after)}"
        )


def _inline(data: dict[str, Any]) -> str:
    return ", ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in data.items())


def _table_rules(old: Contract, new: Contract) -> Iterator[Change]:
    yield from _plain_rule("key", "key", old.key, new.key)
    before, after = {rule.name: rule for rule in old.rules}, {rule.name: rule for rule in new.rules}
    for name in {**before, **after}:
        yield from _plain_rule(f"rules.{name}", "expression", before.get(name), after.get(name))
    yield from _rows(old.rows, new.rows)
    yield from _appears("freshness", "freshness", old.freshness, new.freshness)
    if old.freshness and new.freshness and old.freshness.seconds != new.freshness.seconds:
        shortens = new.freshness.seconds < old.freshness.seconds
        sentence = f"freshness changes from {old.freshness.max_age} to {new.freshness.max_age}"
        yield Change("freshness", shortens and _refuses(new.freshness), sentence)
    if old.extra_columns != new.extra_columns:
        breaking = new.extra_columns == "block"
        yield Change("extra_columns", breaking, f"changes from {old.extra_columns} to {new.extra_columns}")


def _rows(old: Rows | None, new: Rows | None) -> Iterator[Change]:
    yield from _appears("rows", "rows", old, new)
    if old is None or new is None or (old.min, old.max) == (new.min, new.max):
        return
    narrows = new.min > old.min or _above(old.max, new.max, open_end=1)
    sentence = (
        f"rows change from {_words(Range(min=old.min, max=old.max))} to {_words(Range(min=new.min, max=new.max))}"
    )
    yield Change("rows", narrows and _refuses(new), sentence)
