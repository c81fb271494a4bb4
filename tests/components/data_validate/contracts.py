"""Random contracts, for the property tests of everything that reads one."""

from typing import Any

import hypothesis.strategies as st

from headway.components.data_validate.contract import Contract

LEVELS = st.sampled_from(["block", "quarantine", "warn"])
NAMES = st.one_of(
    st.sampled_from(["distance", "dist ance", "größe", "出発", 'say "hi"', "it's", "a.b", "select", "yes", "1", "# x"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12),
)
PATTERNS = st.sampled_from(
    ["[A-Z]{2}\\d{1,4}", "N[0-9]{1,5}[A-Z]{0,2}", "(a|b)+c?", "[^@\\s]+@[a-z]+\\.[a-z]{2,}", "x.y"]
)
FINITE = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@st.composite
def columns(draw: st.DrawFn, *, full: bool = True) -> dict[str, Any]:
    """One column as a mapping; `full` adds what only tables are checked for."""
    kind = draw(st.sampled_from(["integer", "number", "boolean", "string", "timestamp"]))
    column: dict[str, Any] = {
        "type": kind,
        "missing": {"max_share": draw(st.sampled_from([0.0, 0.3])), "level": draw(LEVELS)},
    }
    rule = {"level": draw(LEVELS)}
    if kind in ("integer", "number") and draw(st.booleans()):
        low = draw(st.integers(-1000, 1000) if kind == "integer" else FINITE)
        column["range"] = {"min": low, "max": low + draw(st.integers(0, 5000)), **rule}
    elif kind == "timestamp" and draw(st.booleans()):
        column["range"] = {"min": "2020-01-01", "max": "2021-06-01T12:00:00", **rule}
    elif kind == "string" and draw(st.booleans()):
        if draw(st.booleans()):
            column["pattern"] = {"regex": draw(PATTERNS), **rule}
        else:
            allowed = draw(
                st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=1, max_size=5, unique=True)
            )
            column["values"] = {"allowed": allowed, **rule}
    if full and kind == "integer" and "range" not in column and draw(st.booleans()):
        column["unique"] = rule
        column["range"] = {"min": 0, "max": 10**9}
    if full and draw(st.booleans()):
        column |= {"unit": "miles", "description": draw(st.text(max_size=20)), "required": draw(st.booleans())}
    return column


@st.composite
def contracts(draw: st.DrawFn, *, full: bool = True) -> Contract:
    """A contract with one to six columns."""
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique_by=str.casefold))
    data: dict[str, Any] = {
        "name": draw(st.text(min_size=1, max_size=20)),
        "columns": {n: draw(columns(full=full)) for n in names},
    }
    if full and draw(st.booleans()):
        data["target"] = names[0]
    times = [name for name in names if data["columns"][name]["type"] == "timestamp"]
    if full and times:
        data |= {"time": times[0], "key": times[:1], "freshness": {"max_age": "36500d", "level": "warn"}}
    if full:
        data["extra_columns"] = draw(st.sampled_from(["ignore", "warn", "block"]))
        data["rows"] = draw(st.sampled_from([None, {"min": 1}, {"min": 1, "max": 10_000, "level": "warn"}]))
        data["rules"] = [{"name": "r", "expression": "1 < 2", "level": draw(LEVELS)}] if draw(st.booleans()) else []
    return Contract.parse(data)
