"""The step: the parts of a table checked as one, and written in the form that the later steps take for granted."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from headway.components.config import Config
from headway.components.data_validate.checks import check_table
from headway.components.data_validate.contract import Contract
from headway.components.data_validate.findings import CheckReport
from headway.components.data_validate.profile import Profile, profile_table
from headway.components.data_validate.report import markdown_summary, validation_report
from headway.components.errors import UsageError
from headway.components.ingest.digest import file_digest
from headway.components.run_page import log_metrics, write_text
from headway.components.settings import load_settings

TRAIN = "train"


class ValidationResult(Config):
    """What the step found and wrote."""

    report: CheckReport
    profile: Profile
    clean: dict[str, Path]
    """The rows that go on, by part."""
    report_path: Path
    """The HTML report."""

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers for the run page."""
        return {
            "rows": self.report.rows,
            "rules": self.report.rules,
            "rules_broken": len(self.report.findings),
            "rules_blocking": len(self.report.blocking),
            "quarantined_rows": self.report.quarantined,
            "quarantined_share": self.report.quarantined / self.report.rows if self.report.rows else 0.0,
        }

    def show(self, came: Mapping[str, Any], clean: Mapping[str, Any], *, metrics: Any, summary: Any) -> None:
        """Fill the step's artifacts: metadata of the clean parts, metrics and the Markdown summary.

        Args:
            came: The input `dsl.Dataset` of each part; its digest holds for a clean part that is the same file.
            clean: The output `dsl.Dataset` of each part.
            metrics: A `dsl.Metrics`.
            summary: A `dsl.Markdown`.
        """
        for name, artifact in clean.items():
            part = self.report.parts[name]
            digest = None if part.changed else came[name].metadata.get("digest")
            columns = len(pq.read_schema(self.clean[name]).names)
            artifact.metadata.update(
                {
                    "rows": part.rows - part.quarantined,
                    "columns": columns,
                    "digest": digest or file_digest(self.clean[name]).hex,
                }
            )
        log_metrics(metrics, self.metrics)
        write_text(summary, markdown_summary(self.report))

    def raise_if_blocked(self) -> None:
        """Stop the run when a rule of level `block` failed.

        Raises:
            ContractViolation: Lists the blocking findings and says where the report lies.
        """
        self.report.raise_if_blocked(see=f"the report at {self.report_path}")


def validate(
    contract: Contract,
    parts: Mapping[str, Path],
    *,
    clean: Mapping[str, Path],
    quarantine: Path,
    profile: Path,
    report: Path,
    now: datetime | None = None,
    threads: int = 0,
) -> ValidationResult:
    """Check the parts of a table as one table, and write what goes on.

    Everything is written whatever the verdict is: when the data is refused, the report and the files say why.
    `ValidationResult.raise_if_blocked` then stops the run.

    Args:
        contract: What the table must be.
        parts: Parquet files by name; `train` among them. A part without rows is fine.
        clean: Where the rows of each part that go on are written, in the contract's types.
        quarantine: Where the rows are written that were taken out, with the reasons.
        profile: Where the profile of the clean train part is written, as JSON.
        report: Where the HTML report is written.
        now: When the check runs, for freshness; the current time by default.
        threads: 0 means as many as there are cores for this process.

    Raises:
        UsageError: There is no part `train`, or `clean` does not name the same parts.
        SourceError: A file cannot be read.
        ConfigError: A rule of the contract cannot be used.
    """
    if TRAIN not in parts:
        raise UsageError(f"No part {TRAIN!r} among {', '.join(parts) or 'no parts'}", expected="the rows to train on")
    checked = check_table(contract, parts, now=now, clean=clean, quarantine=quarantine, threads=threads)
    summary = profile_table(contract, clean[TRAIN], threads=threads)
    _write(profile, summary.to_json() + "\n")
    _write(report, validation_report(contract, checked, summary, profiled=f"the clean rows of {TRAIN}"))
    return ValidationResult(report=checked, profile=summary, clean=dict(clean), report_path=report)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def run(
    contract: str, came: Mapping[str, Any], clean: Mapping[str, Any], *, quarantine: Any, profile: Any, report: Any
) -> ValidationResult:
    """`validate` on the artifacts of a pipeline step, with the contract as YAML text and the installation's threads.

    Raises:
        ConfigError: The text is no contract, or a rule of it cannot be used.
        SourceError: A file cannot be read.
    """
    return validate(
        Contract.parse(contract),
        {name: Path(artifact.path) for name, artifact in came.items()},
        clean={name: Path(artifact.path) for name, artifact in clean.items()},
        quarantine=Path(quarantine.path),
        profile=Path(profile.path),
        report=Path(report.path),
        threads=load_settings().threads,
    )
