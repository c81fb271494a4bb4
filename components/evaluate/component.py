"""The KFP face of evaluate."""

from kfp import dsl

from headway.components.images import component


@component
def evaluate(
    name: str,
    evaluation: str,
    bundle: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    plots: dsl.Output[dsl.ClassificationMetrics],
    verdict: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
    champion: str = "",
) -> str:
    """Judge a model on the validation part, by the rules and against the champion.

    Args:
        name: The model's name in the registry.
        evaluation: The evaluation section of model.yaml, as YAML text.
        bundle: The candidate.
        data: The valid validation part.
        metrics: The candidate's metrics.
        plots: ROC curve and confusion matrix.
        verdict: Decision, reasons, metrics with intervals, and digests, as JSON.
        summary: The decision in short.
        report: The whole report.
        champion: Version to compare with; "auto" for the one that serves now, empty for none.

    Returns:
        promote, hold or reject.
    """
    from headway.components.evaluate.evaluate import run

    evaluated = run(
        name,
        evaluation,
        bundle.path,
        data.path,
        champion=champion,
        data_digest=data.metadata.get("digest", ""),
        run_id=bundle.metadata.get("run_id", ""),
    )
    evaluated.show(metrics=metrics, plots=plots, verdict=verdict, summary=summary, report=report)
    return str(evaluated.verdict.decision)
