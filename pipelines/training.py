"""The training pipeline: from a source to a judged and registered model.

    ingest → data_validate → train → evaluate → (gate) → register, and record_outcome at the end of every run

The graph is flat and its steps are coarse: on a cluster each one is two pods. The gate is evaluate's single text
output, since kfp.local silently skips conditions on named outputs.
"""

from kfp import dsl

from headway.components.data_validate.component import data_validate
from headway.components.evaluate.component import evaluate
from headway.components.ingest.component import ingest
from headway.components.register.component import record_outcome, register
from headway.components.train.component import train
from headway.pipelines.cluster import configured

PROMOTE = "promote"


@dsl.pipeline(
    name="training",
    description="Reads data, checks it against its contract, trains a model, judges it, registers it if it is good.",
)
def training(
    name: str,
    contract: str,
    source: str,
    split: str = "{}",
    training: str = "{}",
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
        evaluation: What the gate demands: the `evaluation` section of model.yaml, as YAML text.
        champion: The version to beat: `auto` looks it up in the registry, empty compares with none.
        promote_first: Whether the first version of a model becomes champion at once.
    """
    outcome = configured(record_outcome(name=name), "tiny").set_caching_options(False)
    with dsl.ExitHandler(outcome):
        data = configured(ingest(source=source, split=split, contract=contract), "medium")
        # What lies behind a source's address can change while the address does not.
        data.set_caching_options(False)
        valid = configured(
            data_validate(
                contract=contract,
                train=data.outputs["train"],
                validation=data.outputs["validation"],
                holdout=data.outputs["holdout"],
            ),
            "medium",
        )
        model = configured(
            train(
                name=name,
                contract=contract,
                training=training,
                data=valid.outputs["valid_train"],
                profile=valid.outputs["profile"],
            ),
            "large",
        )
        verdict = configured(
            evaluate(
                name=name,
                evaluation=evaluation,
                bundle=model.outputs["bundle"],
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
                    bundle=model.outputs["bundle"],
                    verdict=verdict.outputs["verdict"],
                    promote_first=promote_first,
                ),
                "small",
                signs=True,
            )
            registered.set_caching_options(False)
