"""The training pipeline: from a source to a judged and registered model.

    ingest → data_validate → [tune] → train → [optimise] → evaluate → (gate) → register

and record_outcome at the end of every run. `train` is `train_distributed` where model.yaml says `trainer: distributed`;
`tune` and `optimise` are there where it has a section of their name. The choice is made when the pipeline is compiled:
no pod is started to find out that it has nothing to do.

The graph is flat and its steps are coarse: on a cluster each one is two pods. The gate is evaluate's single text
output, since kfp.local silently skips conditions on named outputs.
"""

import functools
import inspect
from typing import Any, NamedTuple

from kfp import dsl

from headway.components.data_validate.component import data_validate
from headway.components.evaluate.component import evaluate
from headway.components.ingest.component import ingest
from headway.components.optimise.component import optimise
from headway.components.register.component import record_outcome, register
from headway.components.train.component import train
from headway.components.train_distributed.component import train_distributed
from headway.components.tune.component import tune
from headway.pipelines.cluster import SHARED_FOLDER, configured, launching

PROMOTE = "promote"


class Shape(NamedTuple):
    """Which of its optional steps the training pipeline has."""

    distributed: bool = False
    """`train_distributed` instead of `train`."""
    machines: bool = False
    """Whether that is a job on several machines."""
    tuned: bool = False
    """`tune` before it."""
    optimised: bool = False
    """`optimise` after it."""


def shaped(shape: Shape) -> Any:
    """The training pipeline with some of its optional steps, and parameters for exactly those."""

    def training(
        name: str,
        contract: str,
        source: str,
        split: str = "{}",
        training: str = "{}",
        tuning: str = "",
        optimisation: str = "{}",
        evaluation: str = "{}",
        champion: str = "auto",
        promote_first: bool = True,
    ) -> None:
        """Train, judge and register one model.

        Args:
            name: The model's name in the registry.
            contract: The data contract, as YAML text.
            source: Where the data comes from: the `source` section of model.yaml, as YAML text.
            split: How it is split: the `split` section of model.yaml, as YAML text.
            training: What is fitted: the `training` section of model.yaml, as YAML text.
            tuning: What is searched before: the `tuning` section of model.yaml, as YAML text.
            optimisation: What the model file may lose for speed: the `optimise` section of model.yaml, as YAML text.
            evaluation: What the gate demands: the `evaluation` section of model.yaml, as YAML text.
            champion: The version to beat: `auto` looks it up in the registry, empty compares with none.
            promote_first: Whether the first version of a model becomes champion at once.
        """
        outcome = configured(record_outcome(name=name), "tiny").set_caching_options(False)
        with dsl.ExitHandler(outcome):
            valid = valid_data(source, split, contract)
            section = _tuned(valid, name, contract, training, tuning) if shape.tuned else training
            bundle = _trained(shape, valid, name, contract, section)
            if shape.optimised:
                bundle = _optimised(bundle, valid, optimisation, evaluation)
            _judged_and_registered(name, bundle, valid, evaluation, champion, promote_first)

    unused = {"tuning": shape.tuned, "optimisation": shape.optimised}
    whole = inspect.signature(training)
    kept = [parameter for parameter in whole.parameters.values() if unused.get(parameter.name, True)]

    @functools.wraps(training)
    def with_kept(*given: Any) -> None:
        training(**{parameter.name: value for parameter, value in zip(kept, given, strict=True)})

    # kfp makes the pipeline's parameters from the signature: one that nothing reads would be ignored in silence.
    with_kept.__signature__ = whole.replace(parameters=kept)  # type: ignore[attr-defined]
    describe = "Reads data, checks it against its contract, trains a model, judges it, registers it if it is good."
    return dsl.pipeline(name="training", description=describe)(with_kept)


def valid_data(source: str, split: str, contract: str) -> dsl.PipelineTask:
    """The first two steps of every pipeline: read, split, and check against the contract."""
    data = configured(ingest(source=source, split=split, contract=contract), "medium")
    # What lies behind a source's address can change while the address does not.
    data.set_caching_options(False)
    return configured(
        data_validate(
            contract=contract,
            train=data.outputs["train"],
            validation=data.outputs["validation"],
            holdout=data.outputs["holdout"],
        ),
        "medium",
    )


def _tuned(valid: dsl.PipelineTask, name: str, contract: str, training: str, tuning: str) -> Any:
    """The training section with the best values that a search found."""
    parts = {"train": valid.outputs["valid_train"], "validation": valid.outputs["valid_validation"]}
    found = configured(tune(name=name, contract=contract, training=training, tuning=tuning, **parts), "large")
    return found.outputs["Output"]


def _trained(shape: Shape, valid: dsl.PipelineTask, name: str, contract: str, section: Any) -> Any:
    """The bundle of a fitted model."""
    given = {"name": name, "contract": contract, "training": section}
    given |= {"data": valid.outputs["valid_train"], "profile": valid.outputs["profile"]}
    if not shape.distributed:
        return configured(train(**given), "large").outputs["bundle"]
    if not shape.machines:
        return configured(train_distributed(**given), "large").outputs["bundle"]
    # The same folder for every attempt of one run, so that a retried step goes on from the last checkpoint.
    folder = f"{SHARED_FOLDER}/runs/{dsl.PIPELINE_JOB_ID_PLACEHOLDER}/train-distributed"
    return launching(configured(train_distributed(**given, folder=folder), "small")).outputs["bundle"]


def _optimised(bundle: Any, valid: dsl.PipelineTask, optimisation: str, evaluation: str) -> Any:
    """The bundle whose first file is the fastest one that answers alike: what is judged is what will serve."""
    faster = configured(
        optimise(
            bundle=bundle,
            data=valid.outputs["valid_validation"],
            optimisation=optimisation,
            evaluation=evaluation,
        ),
        "medium",
    )
    return faster.outputs["optimised"]


def _judged_and_registered(
    name: str, bundle: Any, valid: dsl.PipelineTask, evaluation: str, champion: str, promote_first: bool
) -> None:
    verdict = configured(
        evaluate(
            name=name,
            evaluation=evaluation,
            bundle=bundle,
            data=valid.outputs["valid_validation"],
            champion=champion,
        ),
        "medium",
    )
    # The champion can change between two runs with the same arguments.
    verdict.set_caching_options(False)
    with dsl.If(verdict.outputs["Output"] == PROMOTE, name="promote"):
        registered = configured(
            register(
                name=name,
                bundle=bundle,
                verdict=verdict.outputs["verdict"],
                promote_first=promote_first,
            ),
            "small",
            signs=True,
        )
        registered.set_caching_options(False)


training = shaped(Shape())
"""The training pipeline as it stands, with none of the optional steps."""
