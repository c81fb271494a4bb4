"""Summaries that add up: the sketch of two tables is the sum of their sketches, bucket by bucket and bit by bit.

Three of them, each with its error: a quantile sketch (DDSketch: Masson, Rim & Lee 2019, "DDSketch: a fast and
fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12), exact moments, and a count of distinct texts
(HyperLogLog: Flajolet, Fusy, Gandouet & Meunier 2007). What DuckDB computes for millions of rows and what
Python computes here are the same functions.
"""

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping

ACCURACY = 0.01
"""Largest relative error of a quantile."""
GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
LOG_GAMMA = math.log(GAMMA)
LOG2_GAMMA = math.log2(GAMMA)
TINY = 1e-200
"""Numbers nearer to zero than this count as zero."""
MANTISSA = 53
"""Bits that a value has in front of the point after it was scaled into its bucket's integers; see `scaled`."""
HALF = 28
"""An integer below 2**55 is split here, so that the squares of both halves add up in 128 bits."""

_INDEX_BITS = 11
_REGISTERS = 1 << _INDEX_BITS
_REST_BITS = 64 - _INDEX_BITS


def bucket_bounds(index: int) -> tuple[float, float]:
    """The half-open interval (low, high] of magnitudes that fall into a bucket.

    Example:
        >>> low, high = bucket_bounds(115)
        >>> round(low, 3), round(high, 3), round(high / low, 4) == round(GAMMA, 4)
        (9.777, 9.975, True)
    """
    return math.exp((index - 1) * LOG_GAMMA), math.exp(index * LOG_GAMMA)


def bucket_value(index: int) -> float:
    """The magnitude that stands for a bucket: within ACCURACY of every value in it."""
    return 2 * math.exp(index * LOG_GAMMA) / (GAMMA + 1)


def bucket_sql(magnitude: str) -> str:
    """SQL for the bucket of a magnitude above TINY."""
    return f"CAST(ceil(ln({magnitude}) / {LOG_GAMMA!r}) AS INTEGER)"


def scaled_sql(magnitude: str, bucket: str) -> str:
    """SQL that makes a magnitude an integer without loss, by a power of two that depends on its bucket alone.

    All values of a bucket have nearly one magnitude, so one power of two moves the last bit of each before the point.
    Sums of integers have no rounding: they are the same in any order, on any number of threads, for any split of rows.
    """
    return f"CAST({magnitude} * pow(2.0, {MANTISSA} - floor(({bucket} - 1) * {LOG2_GAMMA!r})) AS BIGINT)"


FIXED_POINT = 720
"""Sums are whole numbers of 2**-720: finer than the last bit of any number above TINY."""


def shift(index: int) -> int:
    """How far a bucket's integers are shifted to the left to count in units of 2**-FIXED_POINT."""
    return math.floor((index - 1) * LOG2_GAMMA) - MANTISSA + FIXED_POINT


def add(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    """Counts by bucket, added.

    Example:
        >>> add({1: 2, 5: 1}, {1: 1, 3: 4})
        {1: 3, 3: 4, 5: 1}
    """
    return {key: one.get(key, 0) + other.get(key, 0) for key in sorted(one.keys() | other.keys())}


def register_sql(text: str) -> tuple[str, str]:
    """SQL for the register of a text and for the rank that it puts there; the same as `registers`."""
    digest = f"md5_number_lower({text})"
    rest = f"CAST({digest} >> {_INDEX_BITS} AS BIGINT)"
    rank = f"CASE WHEN {rest} = 0 THEN {_REST_BITS + 1} ELSE CAST(log2({rest} & -{rest}) AS INTEGER) + 1 END"
    return f"CAST({digest} & {_REGISTERS - 1} AS INTEGER)", rank


def registers(texts: Iterable[str]) -> bytes:
    """The HyperLogLog registers of some texts, one byte each; those of a union are the larger ones of both.

    Example:
        >>> texts = [f"user {i}" for i in range(50_000)]
        >>> together = larger(registers(texts[:30_000]), registers(texts[20_000:]))
        >>> together == registers(texts), abs(distinct(together) / 50_000 - 1) < 0.05
        (True, True)
    """
    found = bytearray(_REGISTERS)
    for text in texts:
        digest = int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little")
        rest = digest >> _INDEX_BITS
        rank = (rest & -rest).bit_length() if rest else _REST_BITS + 1
        index = digest & (_REGISTERS - 1)
        found[index] = max(found[index], rank)
    return bytes(found)


def registers_of(ranks: Iterable[tuple[int, int]]) -> bytes:
    """The registers from what `register_sql` found."""
    found = bytearray(_REGISTERS)
    for index, rank in ranks:
        found[index] = rank
    return bytes(found)


def larger(one: bytes, other: bytes) -> bytes:
    """The registers of a union."""
    return bytes(map(max, one, other))


def distinct(found: bytes) -> int:
    """How many different texts there were, within about 2.3 % (one standard error: 1.04 / sqrt(2048))."""
    alpha = 0.7213 / (1 + 1.079 / _REGISTERS)
    raw = alpha * _REGISTERS**2 / sum(2.0**-rank for rank in found)
    empty = found.count(0)
    if raw <= 2.5 * _REGISTERS and empty:
        return round(_REGISTERS * math.log(_REGISTERS / empty))
    return round(raw)


def to_text(found: bytes) -> str:
    """Registers as text, for JSON."""
    return base64.b85encode(found).decode()


def from_text(text: str) -> bytes:
    """Registers from text.

    Raises:
        ValueError: It is no text that `to_text` gave.
    """
    found = base64.b85decode(text)
    if len(found) != _REGISTERS:
        raise ValueError(f"{len(found)} registers, expected {_REGISTERS}")
    return found
