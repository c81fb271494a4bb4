"""The pages of a distributed training step: a summary in Markdown, and a report with the curves."""

from headway.components.page import Section, Series, fact_list, line_chart, page, side_by_side, table
from headway.components.train_distributed.job import Result
from headway.components.train_distributed.train import Trained


def summary(trained: Trained) -> str:
    """The step's page as Markdown."""
    result, job = trained.result, trained.job
    run = f"[{job.run_id}]({trained.run_link})" if trained.run_link else f"`{job.run_id}`"
    lines = [
        f"## {job.name}: {headline(trained)}",
        "",
        "| | |",
        "|---|---|",
        f"| task | {result.task}, {result.features} columns after typing |",
        f"| network | {job.training.network}, {result.parameters:,} parameters |",
        f"| rows | {result.rows:,} to train on, {result.held_back:,} held back to judge the epochs |",
        f"| best epoch | {result.best_epoch} of {len(result.epochs)} |",
        f"| ran on | {_ran_on(result)} |",
        f"| speed | {_speed(result)} |",
        f"| model files | {', '.join(result.formats)} |",
        f"| ONNX | {_onnx(result)} |",
        f"| bundle | `{result.digest[:16]}` |",
        f"| MLflow run | {run} |",
    ]
    if result.resumed_at:
        lines.append(f"| resumed | at step {result.resumed_at:,} of {result.steps:,} |")
    lines += ["", "| metric | value |", "|---|---|"]
    lines += [f"| {name} | {value:,.6g} |" for name, value in result.metrics.items()]
    return "\n".join(lines) + "\n"


def training_report(trained: Trained) -> str:
    """The step's page as self-contained HTML: curves of loss and speed, where the time went."""
    result = trained.result
    steps = [epoch.epoch for epoch in result.epochs]
    curves = [Series("training", steps, [epoch.loss for epoch in result.epochs])]
    judged = [(epoch.epoch, epoch.validation_loss) for epoch in result.epochs if epoch.validation_loss is not None]
    if judged:
        curves.append(Series("held back", [at for at, _ in judged], [loss for _, loss in judged], dashed=True))
    unit = "squared error" if result.task == "regression" else "log loss"
    rates = [Series("rows/s", steps, [epoch.rows_per_second for epoch in result.epochs])]
    charts = side_by_side(
        line_chart(curves, x_label="epoch", y_label=unit), line_chart(rates, x_label="epoch", y_label="rows/s")
    )
    sections = [
        Section("Curves", charts),
        Section("Where it ran, and how fast", fact_list(_facts(result))),
        Section(
            "Error", table(["metric", "value"], [[k, f"{v:,.6g}"] for k, v in result.metrics.items()], numeric=[1])
        ),
    ]
    return page(
        title=f"Training of {trained.job.name}",
        headline=headline(trained),
        status="good",
        lead=f"Kept are the weights of epoch {result.best_epoch} of {len(result.epochs)}.",
        sections=sections,
    )


def headline(trained: Trained) -> str:
    """What was trained, in one line."""
    result = trained.result
    return (
        f"{trained.job.training.network} trained on {result.rows:,} rows by {_processes(result)} "
        f"in {result.seconds:.1f} s"
    )


def _facts(result: Result) -> list[tuple[str, str]]:
    speed = result.speed
    found = [("ran on", _ran_on(result)), ("steps", f"{result.steps:,}"), ("speed", _speed(result))]
    if speed is None:
        return found
    found += [
        ("one step", f"{speed.step_seconds * 1e3:.2f} ms (median), {speed.step_seconds_p95 * 1e3:.2f} ms (95 %)"),
        ("waited for rows", f"{speed.data_share:.1%} of the time"),
        ("kept busy", f"{speed.cores:.2f} cores in each process"),
        ("waited for checkpoints", f"{speed.checkpoint_share:.1%} of the time"),
    ]
    if speed.mfu is not None:
        found.append(("model FLOP utilisation", f"{speed.mfu:.1%} of {speed.mfu_against}"))
    if speed.gpu_memory is not None:
        found.append(("GPU memory", f"{speed.gpu_memory:.1%}"))
    if speed.gpu_utilisation is not None:
        found.append(("GPU utilisation", f"{speed.gpu_utilisation:.0%}"))
    return found


def _ran_on(result: Result) -> str:
    return f"{_processes(result)} on {result.device}, {result.parallel}, {result.precision}"


def _processes(result: Result) -> str:
    return "1 process" if result.processes == 1 else f"{result.processes} processes"


def _speed(result: Result) -> str:
    return f"{result.speed.rows_per_second:,.0f} rows/s" if result.speed else "nothing was left to train"


def _onnx(result: Result) -> str:
    if result.onnx_note:
        return f"none: {result.onnx_note.replace('|', '/')}"
    return f"differs by at most {result.parity:.2g}" if result.parity is not None else ""
