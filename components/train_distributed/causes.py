"""Why a rank failed, in its own words: read from what `@record` writes, and taken apart into our error's parts."""

import json
from pathlib import Path


def read_cause(path: Path) -> tuple[str, str | None, str | None] | None:
    """The first failing rank's exception as (problem, expected, fix), from what `@record` wrote.

    Args:
        path: The error file; a missing or broken one gives None.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    message = document.get("message", document)
    text = str(message.get("message", "") if isinstance(message, dict) else message)
    return parse_cause(text) if text else None


def parse_cause(text: str) -> tuple[str, str | None, str | None]:
    r"""One of our errors as text, taken apart again.

    Example:
        >>> parse_cause("TrainingError: no rows\nExpected: some\nFix: add some")
        ('no rows', 'some', 'add some')
        >>> parse_cause("ValueError: bad shard")
        ('ValueError: bad shard', None, None)
    """
    lines = text.strip().splitlines()
    expected = next((line.removeprefix("Expected: ") for line in lines if line.startswith("Expected: ")), None)
    fix = next((line.removeprefix("Fix: ") for line in lines if line.startswith("Fix: ")), None)
    problem = "\n".join(line for line in lines if not line.startswith(("Expected: ", "Fix: ")))
    kind, _, rest = problem.partition(": ")
    ours = kind in {"TrainingError", "ConfigError", "SourceError", "DataError", "UnknownNameError", "PlatformError"}
    return (rest if ours and rest else problem), expected, fix
