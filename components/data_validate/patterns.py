"""Regular expressions that mean one thing everywhere: in DuckDB (RE2), in Python, on hostile text.

A contract's pattern is checked over whole tables by DuckDB, whose RE2 engine is linear, and on requests in Python,
whose engine backtracks. So a pattern is limited to what both read alike, and Python's engine is used only where a bound
on its backtracking is small; everything else goes to RE2 through pyarrow, slower per call and never exponential.
"""

import re
from collections.abc import Callable, Iterable
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import numpy as np

MAX_REPEAT = 1_000
"""RE2's own limit for counted repeats, nested ones multiplied."""
MAX_PATHS = 100_000
"""Python's engine is used while the ways through a pattern stay below this: about a millisecond at worst."""
PYTHON_LENGTH = 256
"""Longer texts always go to RE2."""
_MOST_EXTRA = 8
"""How far `random_text` runs an open-ended repeat beyond its minimum."""

_TEXT_RULES = (
    (re.compile(r"\(\?[imsauLx-]*[auLx]"), "only the flags i, m and s are allowed"),
    (re.compile(r"\(\?#"), "comments are not allowed"),
    (re.compile(r"\{,"), "write {0,n} instead of {,n}, and \\{ for a brace"),
    (re.compile(r"\[:"), "write the characters of [:class:] out"),
)
_ESCAPES = {r"\Z": "write \\z as $", r"\u": "write the character", r"\U": "write the character", r"\N": "write it out"}
_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT)
_SIMPLE = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN, op.AT)
_REFUSED = "look-around, back-references, atomic groups and possessive repeats are not allowed: RE2 has none of them"

Tree = Iterable[tuple[Any, Any]]


def parse(regex: str) -> Tree:
    """The syntax tree of a pattern that RE2 and Python read alike.

    Raises:
        ValueError: It is no regular expression, or only one of the two engines knows it.
    """
    tokens = re.findall(r"\\.|[^\\]", regex, re.DOTALL)
    for token in tokens:
        if token in _ESCAPES:
            raise ValueError(f"the escape {token} is not known to RE2: {_ESCAPES[token]}")
    plain = "".join("_" if token.startswith("\\") else token for token in tokens)
    for rule, sentence in _TEXT_RULES:
        if rule.search(plain):
            raise ValueError(sentence)
    try:
        tree: Tree = parser.parse(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    _check(tree, 1)
    return tree


def _check(tree: Tree, repeats: int) -> None:
    for code, argument in tree:
        if code in _REPEATS:
            low, high, body = argument
            times = repeats * max(low, 1 if high == op.MAXREPEAT else high, 1)
            if times > MAX_REPEAT:
                raise ValueError(f"a repeat of more than {MAX_REPEAT} times is not allowed")
            _check(body, times)
        elif code is op.SUBPATTERN:
            _check(argument[3], repeats)
        elif code is op.BRANCH:
            for branch in argument[1]:
                _check(branch, repeats)
        elif code not in _SIMPLE:
            raise ValueError(_REFUSED)


def paths(tree: Tree) -> int:
    """An upper bound on the ways a backtracking engine can try, for texts up to PYTHON_LENGTH; never above MAX_PATHS.

    Example:
        >>> paths(parse(r"[A-Z]{2}[0-9]{1,4}")), paths(parse(r"(a+)+b")) == MAX_PATHS
        (4, True)
    """
    total = 1
    for code, argument in tree:
        if code in _REPEATS:
            low, high, body = argument
            low, high = min(low, PYTHON_LENGTH), min(high, PYTHON_LENGTH)
            inside = paths(body)
            total *= (inside**high if inside > 1 else 1) * (high - low + 1)
        elif code is op.SUBPATTERN:
            total *= paths(argument[3])
        elif code is op.BRANCH:
            total *= sum(paths(branch) for branch in argument[1])
        if total >= MAX_PATHS:
            return MAX_PATHS
    return total


def matcher(regex: str) -> Callable[[str], bool]:
    r"""A function that says whether a whole text matches, in time that hostile text cannot blow up.

    Args:
        regex: A pattern that `parse` accepts.

    Example:
        >>> tail = matcher(r"N\d{1,5}[A-Z]{0,2}")
        >>> tail("N14228"), tail("14228"), tail("N14228\n")
        (True, False, False)
    """
    full_match = in_python(regex)
    if full_match is None:
        return lambda text: matches_all(regex, [text])

    def match(text: str) -> bool:
        if len(text) <= PYTHON_LENGTH:
            return full_match(text) is not None
        return matches_all(regex, [text])

    return match


def in_python(regex: str) -> Callable[[str], re.Match[str] | None] | None:
    """Python's match of a whole text up to PYTHON_LENGTH; None when it could take long even for such a text."""
    # ASCII, because \d and \w mean only ASCII to RE2.
    return None if paths(parse(regex)) >= MAX_PATHS else re.compile(regex, re.ASCII).fullmatch


def matches_all(regex: str, texts: list[str]) -> bool:
    """Whether every text matches as a whole, by RE2."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.match_substring_regex(pa.array(texts, pa.string()), pattern=rf"\A(?:{regex})\z")
    return bool(pc.all(found, min_count=0).as_py())


def random_text(regex: str, rng: np.random.Generator) -> str:
    r"""A random text that the pattern allows, but for `\b` and anchors inside it, which are not looked at.

    Example:
        >>> text = random_text(r"[A-Z]{2}-\d+", np.random.default_rng(0))
        >>> matcher(r"[A-Z]{2}-\d+")(text)
        True
    """
    return _random(parse(regex), rng)


def _random(tree: Tree, rng: np.random.Generator) -> str:
    out: list[str] = []
    for code, argument in tree:
        if code in _REPEATS:
            low, high, body = argument
            times = int(rng.integers(low, min(high, low + _MOST_EXTRA) + 1))
            out.extend(_random(body, rng) for _ in range(times))
        elif code is op.SUBPATTERN:
            out.append(_random(argument[3], rng))
        elif code is op.BRANCH:
            branches = argument[1]
            out.append(_random(branches[int(rng.integers(len(branches)))], rng))
        elif code is not op.AT:
            out.append(_random_character(code, argument, rng))
    return "".join(out)


_PRINTABLE = [chr(code) for code in range(32, 127)]
_CLASSES = {op.CATEGORY_DIGIT: r"\d", op.CATEGORY_NOT_DIGIT: r"\D", op.CATEGORY_SPACE: r"\s"} | {
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}


def _random_character(code: Any, argument: Any, rng: np.random.Generator) -> str:
    if code is op.LITERAL:
        return chr(argument)
    if code is op.ANY:
        choices = _PRINTABLE
    elif code is op.NOT_LITERAL:
        choices = [character for character in _PRINTABLE if ord(character) != argument]
    else:
        choices = _in_set(argument)
    return choices[int(rng.integers(len(choices)))]


def _in_set(items: list[tuple[Any, Any]]) -> list[str]:
    """The characters of a set; the printable ASCII ones of a negated set."""
    negated = items[0][0] is op.NEGATE
    found: set[str] = set()
    for code, argument in items:
        if code is op.LITERAL:
            found.add(chr(argument))
        elif code is op.RANGE:
            low, high = argument
            found.update(chr(number) for number in range(low, min(high, low + 1_000) + 1))
        elif code is op.CATEGORY:
            in_class = re.compile(_CLASSES[argument], re.ASCII)
            found.update(character for character in _PRINTABLE if in_class.match(character))
    return sorted(set(_PRINTABLE) - found if negated else found) or ["\u00e4"]
