"""The KFP face of releases."""

from kfp import dsl

from headway.components.images import component


@component
def release_model(
    name: str,
    version: str,
    release: str,
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
    reason: str = "a pipeline's last step",
) -> str:
    """Release a registered version: traffic moves to it stage by stage, and back when the numbers say so.

    Args:
        name: The model's name, which is the endpoint's too.
        version: The version: a number, a semantic version or an alias.
        release: What the release shall do: the `release` section of model.yaml, as YAML text.
        summary: How it ended, and the last findings.
        report: Traffic, verdicts and their intervals over time.
        reason: Why, in words; it goes into the ledger.

    Returns:
        `promoted` or `completed`, or `held` where a person must look; a version that was taken back fails the step.
    """
    from pathlib import Path

    from headway.components.run_page import write_text
    from headway.serving.release.step import release_version

    ended = release_version(name, version, release, reason=reason, report=Path(report.path))
    write_text(summary, ended.summary)
    return ended.end
