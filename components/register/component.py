"""The KFP faces of registration: the step, and the last word of a run."""

from kfp import dsl

from headway.components.images import component


@component
def register(
    name: str,
    bundle: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    promote_first: bool = True,
) -> str:
    """Make a promoted bundle a version of the model: signed, named by a semantic version, written into the ledger.

    Args:
        name: The model's name.
        bundle: The bundle that `train` wrote.
        verdict: The verdict that `evaluate` wrote about exactly this bundle.
        summary: The version, where it stands, and its model card.
        promote_first: Whether the very first version becomes champion. A champion that exists always stays.

    Returns:
        The version's number.
    """
    from pathlib import Path

    from headway.components.register.register import register as register_bundle
    from headway.components.run_page import write_text

    run_id = str(bundle.metadata.get("run_id", ""))
    made = register_bundle(
        name, Path(bundle.path), Path(verdict.path), run_id=run_id, actor="pipeline", promote_first=promote_first
    )
    write_text(summary, made.summary)
    summary.metadata.update(version=made.version.version, semver=made.version.semver, digest=made.version.digest)
    return str(made.version.version)


@component
def record_outcome(name: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Write the end of a run into the ledger, good or bad; for `dsl.ExitHandler`.

    Args:
        name: The model's name.
        status: How the run ended, filled in by the engine.
    """
    from headway.components.register.register import record_outcome as record

    record(
        name,
        state=status.state,
        pipeline=status.pipeline_job_resource_name,
        error=status.error_message,
        error_code=status.error_code,
    )
