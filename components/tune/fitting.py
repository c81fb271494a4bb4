"""A trial of a scikit-learn estimator: fitted on growing resources, judged on rows that it has not seen.

    boosting, forests       more iterations, on a model that keeps those it has: no work is done twice
    every other estimator   more rows, fitted anew

The last rung is the fit that the train step makes, so a trial that is not pruned has that model's very value. The table
is read and typed once in each worker; what preprocessing has learnt is kept from trial to trial.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.components.bundle import Task
from headway.components.config import Config
from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, EvaluationError, SourceError, TrainingError, did_you_mean
from headway.components.evaluate.metrics import classified, measure, regressed
from headway.components.train import fit as fitting
from headway.components.train.estimators import Estimator, TrainSpec, build, find
from headway.components.train.features import Features
from headway.components.tune.objective import MISSING, Job, Objective, Report, check_key, compose
from headway.components.tune.space import Categorical, Dimension, Space, Values
from headway.components.tune.spec import Folds, TuningSpec

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_THREAD = 50_000
"""Threads that share fewer rows wait for each other: with two, boosting on 8,000 rows took twice the time of one."""
MIN_RUNG_ROWS = 2_000
"""Fewer rows say too little about a trial to stop it."""
_GROWS = {
    "hist_gradient_boosting": "max_iter",
    "gradient_boosting": "n_estimators",
    "random_forest": "n_estimators",
    "extra_trees": "n_estimators",
}
"""Estimators whose fit goes on where it stopped, exactly as if it had never stopped, with the parameter that counts."""
_STOPS_ITSELF = ("early_stopping", "n_iter_no_change", "warm_start")
"""Parameters with which a fit that goes on is no longer the fit in one piece."""
_NOT_SEARCHED = {
    "task": "it says what is predicted",
    "threads": "it changes no score",
    "onnx": "it changes no score",
    "parity_tolerance": "it changes no score",
}

Rows = NDArray[np.int64]


class Encoding(NamedTuple):
    """What the matrix of an estimator depends on, beside the rows."""

    scales: bool
    one_number: bool
    takes_missing: bool
    max_categories: int
    seed: int


@dataclass(frozen=True)
class Part:
    """One fit and its judge: row numbers of the table that is fitted on and of the table that judges."""

    fitted: Rows
    judged: Rows
    seed: int

    def rows(self, share: float) -> Rows | slice:
        """Positions in `fitted` of a fair sample; a larger one holds every smaller one."""
        if share == 1.0:
            return slice(None)
        order = np.random.default_rng(self.seed).permutation(len(self.fitted))
        found: Rows = np.sort(order[: round(len(order) * share)])
        return found


@dataclass(frozen=True)
class Table:
    """Rows as the trials see them."""

    source: "pa.Table"
    frame: Any
    """Typed columns (Features.frame), n rows."""
    codes: NDArray[Any]
    """(n,) class codes, values in regression; -1 for a label that training does not know."""
    weight: NDArray[np.float64] | None
    """(n,) the contract's weight."""


class FitObjective(Objective):
    """Fit an estimator of the catalogue with a trial's training section."""

    section = TrainSpec

    def __init__(self, job: Job) -> None:
        fitting.wait_without_spinning()
        self.job = job
        self.spec = job.spec
        self.threads = job.threads or fitting.available_threads()
        self.contract = Contract.parse(job.contract, where="contract")
        self.features = Features.of(self.contract)
        base = TrainSpec.parse(job.training, where="training")
        path = Path(job.train)
        source = fitting._read(path, self.contract)
        self.task, codes, self.classes = fitting._target(
            source.column(self.contract.require_target()), self.contract, base
        )
        self.threads = min(self.threads, 1 + source.num_rows // ROWS_A_THREAD)
        self.train = self._table(source, codes)
        self.judge = self.train if self.spec.evaluation == "folds" else self._validation()
        self.parts = self._parts(path)
        self._matrices = lru_cache(maxsize=2 * len(self.parts))(self._encode)

    def __call__(self, section: Values, report: Report) -> float:
        """Fit and judge, rung after rung, the folds side by side; the value is their mean."""
        spec = TrainSpec.parse(section, where="the trial's training section")
        candidates = [_Candidate(self, spec, number) for number in range(len(self.parts))]
        rungs = list(self.rungs(spec))
        for step, share in rungs:
            found = [candidate.value(share) for candidate in candidates]
            problem = next((reason for _, reason in found if reason), "")
            if share == 1.0 and problem:
                raise EvaluationError(f"{self.job.metric} is undefined: {problem}")
            value = float(np.mean([value for value, _ in found]))
            if share == 1.0 or (not problem and report(step, value)):
                return value
        raise AssertionError("the last rung is the whole")

    def rungs(self, spec: TrainSpec) -> Iterator[tuple[int, float]]:
        """The points at which a trial is looked at: a step for the report, and the share of the whole, 0 to 1."""
        smallest = min(len(part.fitted) for part in self.parts)
        for step, share in self.spec.looks:
            if share == 1.0 or grows(spec) or share * smallest >= MIN_RUNG_ROWS:
                yield step, share

    @classmethod
    def task_of(cls, train: Path, contract: Contract, section: Config) -> Task:
        """What is predicted, after a look at the target."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = contract.require_target()
        try:
            values = pq.read_table(train, columns=[target]).column(target)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise SourceError(f"{train}: {error}", expected=f"a Parquet file with the target {target!r}") from error
        if not isinstance(section, TrainSpec):
            raise TypeError(f"{section!r} is no training section")
        return fitting._target(values, contract, section)[0]

    @classmethod
    def compose(cls, base: Mapping[str, Any], values: Mapping[str, Any]) -> Values:
        """A training section with a trial's values; parameters of another estimator than the trial's are left out."""
        own = base.get("estimator", TrainSpec().estimator)
        if values.get("estimator", own) != own:
            base = {key: value for key, value in base.items() if key != "parameters"}
        return compose(base, values)

    @classmethod
    def value_at(cls, key: str, section: Config, task: Task) -> Any:
        """The value at a path of the training section; of a parameter that it does not set, the estimator's default."""
        found = super().value_at(key, section, task)
        head, _, name = key.partition(".")
        if found is not MISSING or head != "parameters" or not isinstance(section, TrainSpec):
            return found
        return build(section, task, threads=1).get_params(deep=False).get(name, MISSING)

    @classmethod
    def check(cls, space: Space, section: Config, task: Task | None) -> None:
        """Build every estimator with the ends of every domain: a mistake costs no trial."""
        if not isinstance(section, TrainSpec):
            raise TypeError(f"{section!r} is no training section")
        base = section.model_dump(mode="json", exclude_defaults=True)
        for dimension in space:
            _check_key(dimension, space, section)
            for estimator in _estimators(dimension, space, section):
                for value in dimension.domain.probes():
                    values = {"estimator": estimator} | {dimension.key: value}
                    _check_value(cls.compose(base, values), dimension, space, task)

    def _table(self, source: "pa.Table", codes: NDArray[Any]) -> Table:
        weight = None
        if self.contract.weight:
            weight = source.column(self.contract.weight).to_numpy().astype(np.float64)
        return Table(source=source, frame=self.features.frame(source), codes=codes, weight=weight)

    def _validation(self) -> Table:
        if not self.job.validation:
            raise ConfigError("`evaluation: validation` needs the validation part", fix="or set `evaluation: folds`")
        source = fitting._read(Path(self.job.validation), self.contract)
        if source.num_rows == 0:
            raise SourceError(f"{self.job.validation}: there are no rows", fix="set `evaluation: folds`")
        values = source.column(self.contract.require_target()).to_numpy()
        if self.task == "regression":
            return self._table(source, values.astype(np.float64))
        known = {label: code for code, label in enumerate(self.classes)}
        return self._table(source, np.array([known.get(value, -1) for value in values.tolist()], dtype=np.int64))

    def _parts(self, path: Path) -> list[Part]:
        rows = len(self.train.codes)
        if self.spec.evaluation == "validation":
            return [Part(np.arange(rows), np.arange(len(self.judge.codes)), self.spec.seed)]
        return [
            Part(fitted, judged, self.spec.seed)
            for fitted, judged in _divided(self.spec, self.contract, path, self.train.codes, classes=bool(self.classes))
        ]

    def _encode(self, encoding: Encoding, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The matrix that a fold is fitted on and the one that judges it; learnt from the former alone."""
        part = self.parts[number]
        entry = Estimator(
            name="any",
            scales=encoding.scales,
            one_number=encoding.one_number,
            takes_missing=encoding.takes_missing,
        )
        spec = TrainSpec(max_categories=encoding.max_categories, seed=encoding.seed)
        frame = self.train.frame.iloc[part.fitted]
        pipeline = fitting._pipeline(entry, None, self.task, self.features, frame, spec)
        columns = pipeline.named_steps["columns"]
        with fitting._limited(self.threads), fitting._explained(entry):
            return (
                columns.fit_transform(frame, self.train.codes[part.fitted]),
                columns.transform(self.judge.frame.iloc[part.judged]),
            )

    def matrices(self, spec: TrainSpec, entry: Estimator, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The two matrices of a fold for an estimator; kept for the next trials."""
        encoding = Encoding(entry.scales, entry.one_number, entry.takes_missing, spec.max_categories, spec.seed)
        return self._matrices(encoding, number)


class _Candidate:
    """One trial's estimator on one fold."""

    def __init__(self, owner: FitObjective, spec: TrainSpec, number: int) -> None:
        self.owner = owner
        self.part = owner.parts[number]
        self.entry = find(spec.estimator)
        self.model = build(spec, owner.task, threads=owner.threads)
        self.counter = grows(spec)
        self.total = self.model.get_params(deep=False)[self.counter] if self.counter else 0
        self.matrix, self.judging = owner.matrices(spec, self.entry, number)
        weights = fitting._weights(owner.train.source, owner.contract, owner.train.codes, spec, owner.classes)
        self.weights = None if weights is None else weights[self.part.fitted]
        self.codes = owner.train.codes[self.part.fitted]
        fitting._fit_arguments(self.entry, self.model, weights)  # refuses weights that the estimator does not take

    def value(self, share: float) -> tuple[float, str]:
        """The metric after a share of the fit, and why there is none."""
        rows = self.part.rows(1.0 if self.counter else share)
        if self.owner.classes and (self.codes[rows] == self.codes[rows][0]).all():
            return float("nan"), "the rows that are fitted on hold one class only"
        if self.counter:
            self.model.set_params(**{self.counter: max(1, round(self.total * share)), "warm_start": True})
        weights = {} if self.weights is None else {"sample_weight": self.weights[rows]}
        with fitting._limited(self.owner.threads), fitting._explained(self.entry):
            self.model.fit(self.matrix[rows], self.codes[rows], **weights)
        return self._judged()

    def _judged(self) -> tuple[float, str]:
        owner, judge = self.owner, self.owner.judge
        truth = judge.codes[self.part.judged]
        weight = None if judge.weight is None else judge.weight[self.part.judged]
        with fitting._limited(owner.threads):
            predicted = self.model.predict(self.judging)
            if owner.task == "regression":
                sample = regressed(truth, predicted, weight=weight)
            else:
                sample = classified(
                    owner.task, truth, predicted, self._probabilities(), range(len(owner.classes)), weight=weight
                )
        found = measure(sample, [owner.job.metric])[owner.job.metric]
        return (float("nan"), found.reason) if found.value is None else (found.value, "")

    def _probabilities(self) -> NDArray[np.float64] | None:
        """(n, k) probabilities of all classes, also of one that the fold does not hold."""
        if not hasattr(self.model, "predict_proba"):
            return None
        given = self.model.predict_proba(self.judging)
        whole = np.zeros((len(given), len(self.owner.classes)))
        whole[:, self.model.classes_] = given
        return whole


def grows(spec: TrainSpec) -> str:
    """The parameter that counts the iterations of an estimator whose fit can go on; empty for the others.

    Example:
        >>> grows(TrainSpec()), grows(TrainSpec(estimator="ridge")), grows(TrainSpec(parameters={"warm_start": True}))
        ('max_iter', '', '')
    """
    if spec.early_stopping is not None or any(spec.parameters.get(name) for name in _STOPS_ITSELF):
        return ""
    return _GROWS.get(find(spec.estimator).name, "")


def _divided(
    spec: TuningSpec, contract: Contract, path: Path, codes: NDArray[Any], *, classes: bool
) -> Iterator[tuple[Rows, Rows]]:
    """Row numbers to fit on and to judge on, for each fold."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold, TimeSeriesSplit

    folds = spec.folds
    method = folds.method if folds.method != "auto" else _method(contract, classes=classes)
    every = np.zeros(len(codes))
    if method == "time":
        order = np.argsort(_column(folds, contract, path), kind="stable")
        for fitted, judged in TimeSeriesSplit(folds.count).split(every):
            yield np.sort(order[fitted]), np.sort(order[judged])
        return
    if method == "group":
        yield from GroupKFold(folds.count).split(every, codes, _column(folds, contract, path))
        return
    if method == "stratified" and not classes:
        raise ConfigError("folds: stratified is for classes", expected="random, time or group for a regression")
    kind = StratifiedKFold if method == "stratified" else KFold
    try:
        yield from kind(folds.count, shuffle=True, random_state=spec.seed).split(every, codes)
    except ValueError as error:
        raise TrainingError(f"The training part cannot be divided into {folds.count} folds: {error}") from error


def _method(contract: Contract, *, classes: bool) -> str:
    if contract.time:
        return "time"
    return "stratified" if classes else "random"


def _column(folds: Folds, contract: Contract, path: Path) -> NDArray[Any]:
    """The values of the time's or the group's column; groups as numbers."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    name = folds.column or contract.time
    if not name:
        raise ConfigError("folds: method time needs a column, and the contract names no time", fix="set `column`")
    present = pq.read_schema(path).names
    if name not in present:
        raise ConfigError(f"folds: the training part has no column {name!r}{did_you_mean(name, present)}")
    values = pq.read_table(path, columns=[name]).column(name).combine_chunks()
    if folds.method == "group":
        found: NDArray[Any] = pc.fill_null(values.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
        return found
    times: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return times


def _check_key(dimension: Dimension, space: Space, section: TrainSpec) -> None:
    head, _, rest = dimension.key.partition(".")
    if head in _NOT_SEARCHED:
        raise ConfigError(f"tuning.space: {head!r} is nothing to search: {_NOT_SEARCHED[head]}")
    if head not in TrainSpec.model_fields and not rest:
        own = _parameters(_estimators(dimension, space, section))
        near = did_you_mean(head, own)
        if head in own or (near and not did_you_mean(head, TrainSpec.model_fields)):
            raise ConfigError(
                f"tuning.space: {head!r} is no key of the training section{near}", expected="parameters.NAME"
            )
    check_key(dimension, TrainSpec)


def _parameters(estimators: list[str]) -> set[str]:
    found: set[str] = set()
    for name in estimators:
        entry = find(name)
        task: Task = "binary" if entry.classifier else "regression"
        found |= set(build(TrainSpec(estimator=name), task, threads=1).get_params(deep=False))
    return found


def _estimators(dimension: Dimension, space: Space, section: TrainSpec) -> list[str]:
    """The estimators beside which a dimension can exist."""
    searched = [each.domain for each in space if each.key == "estimator" and isinstance(each.domain, Categorical)]
    if not searched or dimension.key == "estimator":
        return [str(value) for domain in searched for value in domain.values] or [section.estimator]
    possible = [str(value) for domain in searched for value in domain.values]
    for parent, values in dimension.when.items():
        if parent == "estimator":
            possible = [name for name in possible if name in values]
        else:
            beside = [name for each in space if each.key == parent for name in _estimators(each, space, section)]
            possible = [name for name in possible if name in beside]
    return possible


def _check_value(section: Values, dimension: Dimension, space: Space, task: Task | None) -> None:
    """Build the estimator and let it look at its parameters, as its fit would."""
    where = f"tuning.space: {dimension.name}"
    spec = TrainSpec.parse(section, where=where)
    entry = find(spec.estimator)
    fits: Task = task or ("binary" if entry.classifier else "regression")
    try:
        model = build(spec, fits, threads=1)
        looks = getattr(model, "_validate_params", None)
        if looks is not None:
            looks()
    except ConfigError as error:
        varies = any(each.key == "estimator" for each in space) and dimension.key != "estimator"
        fix = "make it conditional with `when: {estimator: …}`" if varies else error.fix
        raise ConfigError(f"{where}: {error.problem}", expected=error.expected, fix=fix) from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
