"""The tuning pipeline: one study by many pods at once.

    ingest → data_validate → tune_start → (tune_worker, several at once) → tune_best

Each worker takes trials from the study until the budget is gone; the study lies in the installation's database, on one
machine in a journal. A worker that dies is started again, and what it did is tried once more. The result is the
training section with the best values, which goes into model.yaml; where one pod's cores are enough, the `tune` step of
the training pipeline does all of this in one place.
"""

from kfp import dsl

from headway.components.tune.component import tune_best, tune_start, tune_worker
from headway.pipelines.cluster import configured
from headway.pipelines.training import valid_data

WORKER_RETRIES = 2


@dsl.pipeline(name="data", description="Reads data and checks it against its contract.")
def data(contract: str, source: str, split: str = "{}") -> None:
    """The first two steps of every pipeline: what `headway tune` needs before it searches on this machine.

    Args:
        contract: The data contract, as YAML text.
        source: Where the data comes from: the `source` section of model.yaml, as YAML text.
        split: How it is split: the `split` section of model.yaml, as YAML text.
    """
    valid_data(source, split, contract)


@dsl.pipeline(name="tuning", description="Reads data, checks it, and searches for the best training section.")
def tuning(
    name: str,
    contract: str,
    source: str,
    tuning: str,
    split: str = "{}",
    training: str = "{}",
) -> str:
    """Search for the best training section of one model.

    Args:
        name: The model's name.
        contract: The data contract, as YAML text.
        source: Where the data comes from: the `source` section of model.yaml, as YAML text.
        tuning: What is searched: the `tuning` section of model.yaml, as YAML text.
        split: How it is split: the `split` section of model.yaml, as YAML text.
        training: What the trials vary: the `training` section of model.yaml, as YAML text.

    Returns:
        The training section with the best values, as YAML text.
    """
    valid = valid_data(source, split, contract)
    parts = {"train": valid.outputs["valid_train"], "validation": valid.outputs["valid_validation"]}
    started = configured(tune_start(name=name, contract=contract, training=training, tuning=tuning, **parts), "small")
    # The study goes on from where it is, whatever the arguments say.
    started.set_caching_options(False)
    with dsl.ParallelFor(started.outputs["Output"]) as worker:
        worked = configured(tune_worker(worker=worker, job=started.outputs["job"], **parts), "large")
        worked.set_caching_options(False)
        worked.set_retry(WORKER_RETRIES)
    best = configured(tune_best(job=started.outputs["job"], trials=dsl.Collected(worked.output)), "small")
    best.set_caching_options(False)
    section: str = best.outputs["Output"]
    return section
