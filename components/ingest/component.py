"""The KFP face of ingest."""

from kfp import dsl

from headway.components.images import component


@component
def ingest(
    source: str,
    split: str,
    contract: str,
    train: dsl.Output[dsl.Dataset],
    validation: dsl.Output[dsl.Dataset],
    holdout: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Read a table from any source, divide it, and look for leakage.

    Args:
        source: The `source` section of model.yaml, as YAML text.
        split: The `split` section of model.yaml, as YAML text; empty for the defaults.
        contract: The contract, as YAML text; empty to take the table as it comes.
        train: Rows that models are fitted on, one Parquet file.
        validation: Rows that models are compared on.
        holdout: Rows that nothing in training or comparison sees; may be without rows.
        metrics: Rows and columns, and the number of leakage findings.
        summary: What was read and how it was divided.
    """
    from headway.components.ingest.ingest import run

    result = run(source, split, contract, train=train.path, validation=validation.path, holdout=holdout.path)
    result.show(train=train, validation=validation, holdout=holdout, metrics=metrics, summary=summary)
