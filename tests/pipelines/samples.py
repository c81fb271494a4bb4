"""Small pipelines with every construct: conditions, loops, an exit handler, nesting, an importer, a secret."""

from typing import NamedTuple

from kfp import dsl, kubernetes

from headway.components.images import component
from headway.components.resources import resources

small = resources("small").apply


@component
def gate(rows: int) -> str:
    return "promote" if rows > 1 else "reject"


@component
def measure(rows: int) -> NamedTuple("Measured", [("accuracy", float), ("names", list)]):  # type: ignore[valid-type]
    return (float(rows), ["a", "b"])


@component
def fit(section: str, model: dsl.Output[dsl.Model]) -> None:
    """Fit a model.

    Args:
        section: What to fit.
    """
    model.metadata["section"] = section


@component
def judge(model: dsl.Input[dsl.Model], metrics: dsl.Output[dsl.Metrics]) -> None:
    metrics.log_metric("accuracy", 1.0)


@component
def record(status: dsl.PipelineTaskFinalStatus) -> None:
    assert status.state


@dsl.pipeline(name="inner")
def inner(section: str) -> None:
    fitted = small(fit(section=section))
    small(judge(model=fitted.output))


@dsl.pipeline(name="sample", description="A pipeline for tests.")
def sample(section: str = "estimator: tree\nseed: 1", rows: int = 3, rate: float = 0.5, fast: bool = True) -> None:
    """A pipeline for tests.

    Args:
        section: A section of a document.
        rows: How many rows.
        rate: A share.
        fast: Whether to hurry.
    """
    last = small(record())
    with dsl.ExitHandler(last):
        decision = small(gate(rows=rows))
        with dsl.If(decision.output == "promote"):
            fitted = small(fit(section=section))
            kubernetes.use_secret_as_env(fitted, "access", {"key": "KEY"})
            judged = small(judge(model=fitted.output))
            judged.set_caching_options(False)
        with dsl.Else():
            inner(section=section)
        with dsl.ParallelFor(["a", "b"]) as item:
            small(fit(section=item))


@dsl.pipeline(name="plain")
def plain(name: str, rows: int = 3) -> None:
    small(fit(section=name))
    small(gate(rows=rows))


@dsl.pipeline(name="branches-on-a-named-output")
def named_condition(rows: int = 3) -> None:
    measured = small(measure(rows=rows))
    with dsl.ExitHandler(small(record())), dsl.If(measured.outputs["accuracy"] > 0.5):
        small(fit(section="a"))


@dsl.pipeline(name="loops-over-a-named-output")
def named_loop(rows: int = 3) -> None:
    measured = small(measure(rows=rows))
    with dsl.ParallelFor(measured.outputs["names"]) as item:
        small(fit(section=item))


@dsl.pipeline(name="imports")
def imports() -> None:
    imported = dsl.importer(artifact_uri="s3://bucket/model", artifact_class=dsl.Model)
    small(judge(model=imported.output))


@dsl.pipeline(name="imports-again")
def imports_again() -> None:
    imported = dsl.importer(artifact_uri="s3://bucket/model", artifact_class=dsl.Model, reimport=True)
    small(judge(model=imported.output))


@dsl.pipeline(name="careless")
def careless(word: str = "run python3 now") -> None:
    fit(section=word)


@dsl.pipeline(name="heavy")
def heavy() -> None:
    small(fit(section="x" * 70_000))
