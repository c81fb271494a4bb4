"""The experiment behind a release of strategy `ab`. Each function may be called again after a crash."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from headway.components.errors import ExperimentError
from headway.components.settings import Settings
from headway.serving.experiment.experiment import Experiment, Experiments
from headway.serving.experiment.experiment_store import ExperimentStore
from headway.serving.experiment.spec import ExperimentMetric, ExperimentSpec, Move, Standing


def create_for_release(
    settings: Settings,
    release_id: str,
    *,
    endpoint: str,
    variants: Sequence[str],
    shares: Sequence[float],
    salt: str,
    metrics: Sequence[ExperimentMetric],
    actor: str,
    **fields: Any,
) -> Experiment:
    """The running experiment of a release of strategy `ab`, made on the first call.

    Who saw what comes from the payload log, so that the serving path pays nothing.

    Args:
        settings: The installation.
        release_id: The release's id, which is the experiment's name too.
        endpoint: The endpoint.
        variants: Its variants, the stable one first.
        shares: Their shares of the users, in the same order, in any unit.
        salt: The route's salt.
        metrics: What is measured, what decides first.
        actor: Who started the release.
        **fields: More fields of `ExperimentSpec`, such as `alpha`.
    """
    experiments = Experiments(settings)
    total = sum(shares)
    spec = ExperimentSpec.parse(
        {
            "name": release_id,
            "description": f"release {release_id} of {endpoint}",
            "variants": {name: share / total for name, share in zip(variants, shares, strict=True)},
            "metrics": [metric.model_dump() for metric in metrics],
            "salt": salt,
            "endpoint": endpoint,
            **fields,
        }
    )
    with contextlib.suppress(ExperimentError):  # a driver that died has made it
        experiments.create(spec, actor=actor)
    experiments.store.move(release_id, "start", actor=actor, now=experiments.now(), again=True)
    return experiments.get(release_id)


def move_for_release(
    settings: Settings, release_id: str, move: Move, *, actor: str, reason: str = ""
) -> Standing | None:
    """Move the experiment of a release, any number of times with one result; None where the release has none."""
    store = ExperimentStore(settings)
    if release_id not in {standing.spec.name for standing in store.all()}:
        return None
    return store.move(release_id, move, actor=actor, now=datetime.now(UTC), reason=reason, again=True)
