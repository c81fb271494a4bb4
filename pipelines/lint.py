"""Lint of a pipeline before it runs: what Kubeflow Pipelines and `kfp.local` accept and then do wrong.

`lint_source` reads the source of a component, where a function is cut out of its module and runs alone; `lint_spec`
reads a compiled pipeline. Each rule has a name, and each of its findings says where, what and how to mend it.
"""

from collections.abc import Iterable
from pathlib import Path

from headway.components.errors import PipelineError
from headway.pipelines.compile import Spec, load_spec
from headway.pipelines.lint_rules import RULES, Finding
from headway.pipelines.lint_source import source_findings
from headway.pipelines.lint_spec import spec_findings

__all__ = ["RULES", "Finding", "errors_in", "lint_source", "lint_spec"]


def lint_source(path: Path) -> list[Finding]:
    """Lint the components in one Python file; a file without components has no findings.

    Raises:
        PipelineError: The file is missing or is not Python.
    """
    try:
        return list(source_findings(path.read_text(encoding="utf-8"), where=str(path)))
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise PipelineError(f"{path}: cannot be linted: {error}") from None


def lint_spec(source: str | Path | tuple[Spec, Spec], *, release: bool = False) -> list[Finding]:
    """Lint a compiled pipeline.

    Args:
        source: Its file, its text, or the pair that `load_spec` returned.
        release: Whether it is a release, whose images must not be able to change.
    """
    spec, platform = source if isinstance(source, tuple) else load_spec(source)
    return list(spec_findings(spec, platform, release=release))


def errors_in(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are errors."""
    return [finding for finding in findings if finding.level == "error"]
