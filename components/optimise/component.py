"""The KFP face of optimise."""

from kfp import dsl

from headway.components.images import component


@component
def optimise(
    bundle: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    optimised: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
    optimisation: str = "{}",
    evaluation: str = "{}",
) -> None:
    """Choose the model file that is fastest and still gives the trained model's answers, on real rows.

    Args:
        bundle: The bundle that training wrote; it stays as it is.
        data: The valid validation part: rows that the model was not fitted on.
        optimised: The bundle to judge, register and serve; its metadata names the digest and the file that is served.
        metrics: Times before and after, differences, and what int8 would lose.
        summary: The choice, with a line for each file.
        report: Times, differences and answers, drawn.
        optimisation: The optimise section of model.yaml, as YAML text.
        evaluation: The evaluation section of model.yaml, whose primary metric says what quality is.
    """
    from headway.components.optimise.optimise import run

    run(bundle, data, optimised, section=optimisation, evaluation=evaluation).show(
        metrics=metrics, summary=summary, report=report
    )
