"""The six-field schedule of Kubeflow Pipelines, checked before it is sent.

The back-end takes what `robfig/cron` takes, with the second first; a five-field line of crontab means something else
there, and is refused only after the request.
"""

import re

from headway.components.errors import UsageError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("second", 0, 59, {}),
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, start=1)}),
    ("day of week", 0, 6, {name: number for number, name in enumerate(_DAYS)}),
)
_STEP = re.compile(r"(?P<range>[^/]+)(/(?P<step>\d+))?")


def check_cron(text: str) -> None:
    """Check a schedule: second, minute, hour, day of month, month, day of week.

    Raises:
        UsageError: There are not six fields, or a field is out of its range; names the field.

    Example:
        >>> check_cron("0 30 3 * * MON-FRI")
        >>> check_cron("30 3 * * *")
        Traceback (most recent call last):
            ...
        headway.components.errors.UsageError: Schedule '30 3 * * *' has 5 fields
        Expected: six: second minute hour day-of-month month day-of-week
        Fix: put the second first: '0 30 3 * * *'
    """
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise UsageError(
            f"Schedule {text!r} has {len(fields)} fields",
            expected="six: second minute hour day-of-month month day-of-week",
            fix=f"put the second first: {f'0 {text}'!r}" if len(fields) == len(_FIELDS) - 1 else None,
        )
    for value, (name, low, high, words) in zip(fields, _FIELDS, strict=True):
        if value == "?" and not name.startswith("day"):
            raise _wrong(text, name, value, low, high)
        if value != "?" and not all(_fits(part, low, high, words) for part in value.split(",")):
            raise _wrong(text, name, value, low, high)


def _fits(part: str, low: int, high: int, words: dict[str, int]) -> bool:
    """Whether one element (`*`, `5`, `1-5`, `*/10`, `MON-FRI`) lies in its field's range."""
    match = _STEP.fullmatch(part)
    if match is None or (match["step"] is not None and int(match["step"]) < 1):
        return False
    if match["range"] == "*":
        return True
    ends = [_number(end, words) for end in match["range"].split("-")]
    if len(ends) > 2 or any(end is None or not low <= end <= high for end in ends):
        return False
    return len(ends) == 1 or (ends[0] or 0) <= (ends[1] or 0)


def _number(text: str, words: dict[str, int]) -> int | None:
    if text.isascii() and text.isdigit():
        return int(text)
    return words.get(text.lower())


def _wrong(text: str, name: str, value: str, low: int, high: int) -> UsageError:
    return UsageError(
        f"Schedule {text!r}: the field {name!r} is {value!r}",
        expected=f"*, a number from {low} to {high}, a range, a list, or a step such as */5",
    )
