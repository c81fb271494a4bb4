"""The KFP face of training."""

from kfp import dsl

from headway.components.images import component


@component
def train(
    name: str,
    contract: str,
    training: str,
    data: dsl.Input[dsl.Dataset],
    profile: dsl.Input[dsl.Artifact],
    bundle: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Fit the model on the valid training part, write its bundle and log both to MLflow.

    Args:
        name: The model's name, and the MLflow experiment's.
        contract: The data contract as YAML text.
        training: The training section of model.yaml as YAML text.
        data: The valid training part.
        profile: The training part's profile, kept in the bundle.
        bundle: The bundle's folder; its metadata names the digest and the MLflow run.
        metrics: Rows, seconds, and the error on a sample of the training rows.
        summary: What was fitted, which model files there are, and how far apart they are.
    """
    from pathlib import Path

    from headway.components.data_validate.contract import Contract
    from headway.components.run_page import log_metrics, write_text
    from headway.components.train import train as step
    from headway.components.train.estimators import TrainSpec

    trained = step.train(
        Path(data.path),
        Path(bundle.path),
        name=name,
        contract=Contract.parse(contract, where="contract"),
        spec=TrainSpec.parse(training, where="training"),
        profile=Path(profile.path),
        data_digest=str(data.metadata.get("digest", "")),
    )
    bundle.metadata.update(trained.metadata)
    log_metrics(metrics, trained.metrics)
    write_text(summary, step.summary(trained))
