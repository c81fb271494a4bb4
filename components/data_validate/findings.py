"""What a check found: typed, JSON-ready, and readable as lines."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from headway.components.config import Config
from headway.components.data_validate.contract import Level
from headway.components.errors import ContractViolation

Verdict = Literal["pass", "warn", "quarantine", "block"]

MOST_LINES = 20
"""An error message lists at most this many findings."""
_SEVERITY = {Level.BLOCK: 0, Level.QUARANTINE: 1, Level.WARN: 2}


class Example(Config):
    """One row that breaks a rule."""

    part: str
    """The file's name among the checked ones, such as `train`."""
    row: int
    """The row's number in its part, counted from 0."""
    value: str | None = None
    """The offending value as text, cut to 200 characters; None where it is missing."""
    key: dict[str, str | None] = Field(default_factory=dict)
    """The values of the contract's key columns."""


class Finding(Config):
    """One rule that the table breaks."""

    rule: str
    """The rule's kind: column, extra_columns, type, missing, range, values, pattern, unique, key, monotone, expression,
    freshness or rows."""
    column: str | None = None
    """The column; for an expression None."""
    name: str = ""
    """An expression's own name."""
    level: Level
    failed: int
    """How many rows break it; for a rule about the whole table the number of its problems."""
    share: float
    """`failed` as a share of all rows, 0 to 1."""
    parts: dict[str, int] = Field(default_factory=dict)
    """How many rows break it in each part that has some."""
    expected: str
    got: str
    """What came instead."""
    examples: list[Example] = Field(default_factory=list)
    unseen: dict[str, int] = Field(default_factory=dict)
    """For `values`: the unseen categories with their counts, the most frequent first."""

    @property
    def subject(self) -> str:
        """What the finding is about: a column, a rule's name, or the table."""
        return self.column or self.name or "the table"

    @property
    def message(self) -> str:
        """The finding as one line."""
        if len(self.parts) == 1:
            places = f" (in {next(iter(self.parts))})"
        else:
            places = ", ".join(f"{count:,} in {part}" for part, count in self.parts.items())
            places = f" ({places})" if places else ""
        return f"{self.subject}: {self.rule}: {self.got}{places}; expected {self.expected}{self._first_example()}"

    def _first_example(self) -> str:
        if not self.examples:
            return ""
        first = self.examples[0]
        value = "" if self.rule == "missing" else f" has {first.value}"
        return f"; row {first.row} of {first.part}{value}"


class PartCount(Config):
    """What became of one file."""

    rows: int
    quarantined: int = 0
    """Rows that a rule of level `quarantine` took out."""
    changed: bool = False
    """Whether the clean file differs from the one that came: rows taken out, or columns cast."""


class CheckReport(Config):
    """A contract, checked against a table."""

    document: ClassVar[str] = "check report"

    contract: str
    """The contract's name."""
    rows: int
    columns: int
    """How many columns the contract declares."""
    rules: int
    """How many rules were checked."""
    verdict: Verdict
    findings: list[Finding]
    """Every rule that failed: the blocking ones first, then in the contract's order."""
    parts: dict[str, PartCount]
    seconds: float
    """How long the check took, writing included."""

    @property
    def quarantined(self) -> int:
        """Rows that a rule of level `quarantine` took out."""
        return sum(part.quarantined for part in self.parts.values())

    @property
    def blocking(self) -> list[Finding]:
        """The findings that refuse the table."""
        return [finding for finding in self.findings if finding.level is Level.BLOCK]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return self.model_dump(mode="json") | {"quarantined": self.quarantined}

    def lines(self) -> list[str]:
        """The report as text: the verdict, then each finding."""
        return [self.headline, *(f"[{finding.level}] {finding.message}" for finding in self.findings)]

    @property
    def headline(self) -> str:
        """The verdict and why, in one sentence."""
        count = f"{self.rows:,} rows of {self.contract!r}"
        if self.verdict == "pass":
            return f"Passed: {count} meet {'the one rule' if self.rules == 1 else f'all {self.rules:,} rules'}"
        first = self.findings[0]
        more = f" and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
        why = f"{first.rule} of {first.subject}{more}"
        if self.verdict == "block":
            return f"Blocked: {count} must not be used, because of {why}"
        if self.verdict == "quarantine":
            return f"Passed with {self.quarantined:,} of {count} quarantined, because of {why}"
        return f"Passed with warnings: {count}, because of {why}"

    def raise_if_blocked(self, *, see: str = "") -> None:
        """Stop here when a rule of level `block` failed.

        Args:
            see: Where the whole report lies.

        Raises:
            ContractViolation: Lists the blocking findings, a line each.
        """
        blocking = self.blocking
        if not blocking:
            return
        lines = [f"  {finding.message}" for finding in blocking[:MOST_LINES]]
        if len(blocking) > MOST_LINES:
            lines.append(f"  … and {len(blocking) - MOST_LINES} more")
        count = "1 rule" if len(blocking) == 1 else f"{len(blocking)} rules"
        raise ContractViolation(
            f"The data breaks {count} of contract {self.contract!r}:\n" + "\n".join(lines),
            expected="data that meets every rule of level block",
            fix=f"read {see}, then correct the data or review the contract" if see else None,
        )


def verdict_of(findings: list[Finding]) -> Verdict:
    """The strictest level among the findings.

    Example:
        >>> verdict_of([])
        'pass'
    """
    if not findings:
        return "pass"
    levels: tuple[Verdict, ...] = ("block", "quarantine", "warn")
    return levels[min(_SEVERITY[finding.level] for finding in findings)]


def by_severity(findings: list[Finding]) -> list[Finding]:
    """The blocking findings first; among equals the order stays."""
    return sorted(findings, key=lambda finding: _SEVERITY[finding.level])
