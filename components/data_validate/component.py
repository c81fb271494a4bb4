"""The KFP face of data_validate."""

from kfp import dsl

from headway.components.images import component


@component
def data_validate(
    contract: str,
    train: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    holdout: dsl.Input[dsl.Dataset],
    valid_train: dsl.Output[dsl.Dataset],
    valid_validation: dsl.Output[dsl.Dataset],
    valid_holdout: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    profile: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Check a table against its contract; what breaks a blocking rule stops the run, after the report is written.

    Args:
        contract: The contract, as YAML text.
        train: Rows that models are fitted on.
        validation: Rows that models are compared on.
        holdout: Rows that nothing in training or comparison sees; may be without rows.
        valid_train: The rows of train that go on, in the contract's types.
        valid_validation: The rows of validation that go on.
        valid_holdout: The rows of holdout that go on.
        quarantine: The rows that were taken out, each with the reasons and where it stood.
        profile: A summary of each column of valid_train, as JSON.
        metrics: Rows, rules and quarantined rows.
        summary: The verdict and the findings.
        report: The findings with example rows, and a chart of each column.
    """
    from headway.components.data_validate.validate import run

    came = {"train": train, "validation": validation, "holdout": holdout}
    clean = {"train": valid_train, "validation": valid_validation, "holdout": valid_holdout}
    result = run(contract, came, clean, quarantine=quarantine, profile=profile, report=report)
    result.show(came, clean, metrics=metrics, summary=summary)
    quarantine.metadata["rows"] = result.report.quarantined
    result.raise_if_blocked()
