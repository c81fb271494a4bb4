"""The KFP face of distributed training."""

from kfp import dsl

from headway.components.images import component


@component
def train_distributed(
    name: str,
    contract: str,
    training: str,
    data: dsl.Input[dsl.Dataset],
    profile: dsl.Input[dsl.Artifact],
    bundle: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
    nodes: int = 0,
    processes: int = 0,
    accelerator: str = "",
    folder: str = "",
) -> None:
    """Train a network on one or many processes, write its bundle and log both to MLflow.

    Args:
        name: The model's name, and the MLflow experiment's.
        contract: The data contract as YAML text.
        training: The training section of model.yaml as YAML text, with `trainer: distributed`.
        data: The valid training part.
        profile: The training part's profile, kept in the bundle.
        bundle: The bundle's folder; its metadata names the digest and the MLflow run.
        metrics: Losses, rows, steps and speed.
        summary: What was trained where, how fast, and which model files there are.
        report: Curves of loss and speed, and where the time went.
        nodes: Machines; 0 keeps what the training section says.
        processes: Processes on each machine; 0 keeps what the training section says.
        accelerator: `cpu`, `gpu` or `auto`; empty keeps what the training section says.
        folder: Working folder for checkpoints, on storage that every rank sees; empty takes one of the installation.
    """
    from headway.components.data_validate.contract import Contract
    from headway.components.run_page import log_metrics, write_text
    from headway.components.train_distributed import report as pages
    from headway.components.train_distributed import train as step
    from headway.components.train_distributed.spec import DistributedSpec

    spec = DistributedSpec.parse(training, where="training").placed(nodes, processes, accelerator)
    trained = step.train_distributed(
        # Where the ranks are elsewhere, only the address says to them what the path says here.
        data.uri if spec.placement.nodes > 1 else data.path,
        bundle.uri if spec.placement.nodes > 1 else bundle.path,
        name=name,
        contract=Contract.parse(contract, where="contract"),
        spec=spec,
        profile=profile.uri if spec.placement.nodes > 1 else profile.path,
        data_digest=str(data.metadata.get("digest", "")),
        folder=folder or None,
        on_log=print,
    )
    bundle.metadata.update(trained.metadata)
    log_metrics(metrics, trained.metrics)
    write_text(summary, pages.summary(trained))
    write_text(report, pages.training_report(trained))
