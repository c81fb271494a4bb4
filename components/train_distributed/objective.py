"""What a trial of a search does where a network is trained: `tuning: {objective: network, evaluation: validation, …}`.

A trial is one whole training job on this machine, with the processes that its placement names and the worker's threads.
It is judged by the file that would serve, on the validation part. On its way it reports the loss on the rows that its
training section holds back (`early_stopping`), at the shares of its epochs that `tuning.rungs` gives; there all trials
have come equally far along their schedules, whatever the number of their epochs. One that looks poor is stopped.
"""

import tempfile
import threading
from pathlib import Path

from headway.components.bundle import Lineage, Task
from headway.components.config import Config
from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, EvaluationError, TrainingError
from headway.components.evaluate.metrics import classified, measure, regressed
from headway.components.train_distributed.job import Job as TrainingJob
from headway.components.train_distributed.job import Progress
from headway.components.train_distributed.launch import launch
from headway.components.train_distributed.spec import DistributedSpec
from headway.components.trust import TrustedModel, load_bundle
from headway.components.tune.objective import Job, Objective, Report
from headway.components.tune.space import Values
from headway.components.tune.spec import TuningSpec


class NetworkObjective(Objective):
    """Train a network with a trial's training section, and judge the file that would serve."""

    section = DistributedSpec
    reported = "validation_loss"

    def __init__(self, job: Job) -> None:
        import pyarrow.parquet as pq

        if job.spec.evaluation != "validation":
            raise ConfigError(
                f"tuning.evaluation is {job.spec.evaluation!r}",
                expected="`validation`: a network is trained once a trial, not once a fold",
            )
        self.job = job
        self.contract = Contract.parse(job.contract, where="contract")
        self.validation = pq.read_table(job.validation)

    def __call__(self, section: Values, report: Report) -> float:
        """Train, and return the metric on the validation part."""
        spec = DistributedSpec.parse(section, where="the trial's training section")
        look = _Look(looks(self.job.spec, spec.epochs), report)
        with tempfile.TemporaryDirectory(prefix="headway-trial-") as folder:
            bundle = Path(folder) / "bundle"
            try:
                launch(self._training(spec, bundle, Path(folder) / "work"), on_progress=look, cancel=look.stop)
            except TrainingError:
                if not look.stop.is_set():
                    raise
            if look.stop.is_set():
                return look.loss
            # It has no signature yet: this very trial has made it.
            return self._judge(load_bundle(bundle, require_signature=False))

    @classmethod
    def task_of(cls, train: Path, contract: Contract, section: Config) -> Task:
        """What is predicted, after a look at the target."""
        from headway.components.train.estimators import TrainSpec
        from headway.components.tune.fitting import FitObjective

        if not isinstance(section, DistributedSpec):
            raise TypeError(f"{section!r} is no training section of a network")
        return FitObjective.task_of(train, contract, TrainSpec(task=section.task))

    def _training(self, spec: DistributedSpec, bundle: Path, work: Path) -> TrainingJob:
        lineage = Lineage(data_digest="", contract_digest=self.contract.digest(), seed=spec.seed)
        return TrainingJob(
            name=self.job.model,
            contract=self.job.contract,
            training=spec,
            data=self.job.train,
            output=str(bundle),
            folder=str(work),
            lineage=lineage,
        )

    def _judge(self, model: TrustedModel) -> float:
        info = model.info
        target = self.validation.column(info.target).to_numpy()
        predicted = model.predict(self.validation)
        weight = self.validation.column(self.contract.weight).to_numpy() if self.contract.weight else None
        if info.task == "regression":
            sample = regressed(target, predicted.labels, weight=weight)
        else:
            sample = classified(
                info.task, target, predicted.labels, predicted.probabilities, info.classes, weight=weight
            )
        found = measure(sample, [self.job.metric])[self.job.metric]
        if found.value is None:
            raise EvaluationError(f"{self.job.metric} is undefined: {found.reason}")
        return float(found.value)


class _Look:
    """Hands the losses of some epochs to the search, and stops the job when that says so."""

    def __init__(self, epochs: dict[int, int], report: Report) -> None:
        self.stop = threading.Event()
        self.loss = 0.0
        self._epochs, self._report = epochs, report

    def __call__(self, progress: Progress) -> None:
        if progress.validation_loss is None or progress.epoch not in self._epochs or self.stop.is_set():
            return
        self.loss = progress.validation_loss
        if self._report(self._epochs[progress.epoch], self.loss):
            self.stop.set()


def looks(tuning: TuningSpec, epochs: int) -> dict[int, int]:
    """The epochs after which a trial is looked at, with the step of each in the report; the last epoch is none of them.

    Args:
        tuning: The tuning section.
        epochs: Of the trial.

    Example:
        >>> looks(TuningSpec.parse({"space": {"clip": {"type": "float", "low": 0, "high": 1}}, "rungs": 3}), 18)
        {2: 1, 6: 3}
    """
    found = {round(epochs * share): step for step, share in tuning.looks}
    return {epoch: step for epoch, step in found.items() if 0 < epoch < epochs}
