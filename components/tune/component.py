"""The KFP faces of tuning: `tune` is a whole study in one step; the other three are one study in many steps."""

from kfp import dsl

from headway.components.images import component


@component
def tune(
    name: str,
    contract: str,
    training: str,
    tuning: str,
    train: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    best: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Search for the best training section, with several processes in this step; without a tuning section do nothing.

    Args:
        name: The model's name, and the MLflow experiment's.
        contract: The data contract as YAML text.
        training: The training section that the trials vary, as YAML text.
        tuning: The tuning section of model.yaml as YAML text; empty to hand on the training section as it is.
        train: The valid training part.
        validation: The valid validation part, for `evaluation: validation`.
        best: The outcome as JSON: the best trial, counts, importances.
        metrics: The best value, the value of the section as it stood, and the number of trials by state.
        summary: The best values, and the training section with them.
        report: History, importances, parallel coordinates, every trial.

    Returns:
        The training section with the best values, as YAML text: what train takes.
    """
    from headway.components.tune import tune as step

    outcome = step.tune(name, contract, training, tuning, step.Data.of(train, validation))
    step.show(outcome, metrics=metrics, best=best, summary=summary, report=report)
    return training if outcome is None else outcome.training


@component
def tune_start(
    name: str,
    contract: str,
    training: str,
    tuning: str,
    train: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    job: dsl.Output[dsl.Artifact],
) -> list[str]:
    """Begin a study that several steps work on, or go on with an earlier one of the same space and data.

    Args:
        name: The model's name, and the MLflow experiment's.
        contract: The data contract as YAML text.
        training: The training section that the trials vary, as YAML text.
        tuning: The tuning section of model.yaml as YAML text.
        train: The valid training part.
        validation: The valid validation part, for `evaluation: validation`.
        job: What workers need to know, as JSON.

    Returns:
        The names of the workers, to loop over.
    """
    from headway.components.run_page import write_text
    from headway.components.tune import tune as step

    planned, workers = step.start(name, contract, training, tuning, step.Data.of(train, validation))
    write_text(job, planned.model_dump_json(indent=2))
    return workers


@component
def tune_worker(
    worker: str,
    job: dsl.Input[dsl.Artifact],
    train: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
) -> int:
    """Run trials of a study until its budget is used up, beside other workers.

    Args:
        worker: The worker's name.
        job: What tune_start wrote.
        train: The valid training part.
        validation: The valid validation part.

    Returns:
        How many trials this worker ran.
    """
    from pathlib import Path

    from headway.components.tune import tune as step

    return step.run_worker(Path(job.path), worker, step.Data.of(train, validation))


@component
def tune_best(
    job: dsl.Input[dsl.Artifact],
    trials: list[int],
    best: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
) -> str:
    """End a study: the best trial, and the report.

    Args:
        job: What tune_start wrote.
        trials: How many trials each worker ran; what makes this step wait for them.
        best: The outcome as JSON: the best trial, counts, importances.
        metrics: The best value, the value of the section as it stood, and the number of trials by state.
        summary: The best values, and the training section with them.
        report: History, importances, parallel coordinates, every trial.

    Returns:
        The training section with the best values, as YAML text: what train takes.
    """
    from pathlib import Path

    from headway.components.tune import tune as step

    outcome = step.finish(Path(job.path), Path(report.path).parent / "study")
    step.show(outcome, metrics=metrics, best=best, summary=summary, report=report)
    return str(outcome.training)
