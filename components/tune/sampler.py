"""Samplers and pruners, seeded by trial.

Optuna's samplers carry one stream of random numbers through a process. Opened again after a kill they start it anew
and propose the first trials once more, and parallel workers with one seed all propose the same. Here each trial has a
stream of its own, from the study's seed and the trial's place: a resumed study goes on as if it had never stopped.
"""

import warnings
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, NopPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from headway.components.tune.spec import REDUCTION, TuningSpec

NO_TRIAL = "headway:no-trial"
"""User attribute of an attempt that is not counted: its worker died, or it was one too many. Its value says why."""

KEPT_PERCENT = {"percentile": 66.7, "median": 50.0}
"""Trials that go on at each look, in percent."""
SURPLUS = "one more than the budget"
"""Why an attempt is not counted that two workers began for one last trial."""


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count for the budget, by number."""
    return [trial for trial in trials if NO_TRIAL not in trial.user_attrs]


def place(trial: FrozenTrial, trials: list[FrozenTrial]) -> int:
    """Where a trial stands among those that count, from 0."""
    return int(trial.number) - sum(
        1 for other in trials if other.number < trial.number and NO_TRIAL in other.user_attrs
    )


def twin_of(trial: FrozenTrial, trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The first finished trial before this one with the very same values, if there is one."""
    same = (
        other
        for other in trials
        if other.number < trial.number and other.state is TrialState.COMPLETE and other.params == trial.params
    )
    return next(same, None)


class SeededSampler(BaseSampler):  # type: ignore[misc]  # optuna has no types
    """A sampler that is made anew for each trial, with that trial's own seed.

    Args:
        spec: The tuning section.
    """

    def __init__(self, spec: TuningSpec) -> None:
        self._spec = spec
        self._inner: BaseSampler = RandomSampler(seed=spec.seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the sampler of this trial."""
        trials = study.get_trials(deepcopy=False)
        seed = int(np.random.SeedSequence([self._spec.seed, place(trial, trials)]).generate_state(1)[0])
        ended = [other for other in counted(trials) if other.number < trial.number and other.state.is_finished()]
        # Where few values are possible, TPE proposes its favourite again and again.
        repeats = bool(ended) and twin_of(ended[-1], trials) is not None
        self._inner = RandomSampler(seed=seed) if repeats else self._make(seed)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that are sampled together."""
        found: dict[str, BaseDistribution] = self._inner.infer_relative_search_space(study, trial)
        return found

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of those parameters."""
        found: dict[str, Any] = self._inner.sample_relative(study, trial, search_space)
        return found

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of one parameter that is sampled by itself."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """The trial ended."""
        self._inner.after_trial(study, trial, state, values)

    def _make(self, seed: int) -> BaseSampler:
        if self._spec.sampler == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(
                seed=seed,
                n_startup_trials=self._spec.startup,
                multivariate=True,
                # Conditional parameters are learnt together with those that they occur with.
                group=bool(self._spec.search_space.conditional),
                # What others are trying out just now counts as poor, so that workers do not crowd in one place.
                constant_liar=self._spec.workers > 1,
            )


def make_pruner(spec: TuningSpec) -> BasePruner:
    """The pruner of a tuning section."""
    if spec.pruner in KEPT_PERCENT:
        return PercentilePruner(KEPT_PERCENT[spec.pruner], n_startup_trials=max(1, spec.startup // 2))
    if spec.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    return NopPruner()
