"""The forecast of a release at the endpoint's own traffic: `headway release plan`."""

import numpy as np

from headway.components.errors import ReleaseError
from headway.components.settings import Settings
from headway.serving.platform import NO_VALUES
from headway.serving.release.forecast import Forecast, forecast
from headway.serving.release.recording import Recording, record
from headway.serving.release.rehearsal import LATENCY_EDGES_MS, histogram, score_edges
from headway.serving.release.state import Release

HOURS = 24.0
"""How far back traffic is looked at."""


def estimate(settings: Settings, release: Release, *, requests_per_hour: float | None = None) -> Forecast:
    """What a release will need and risk, at the traffic of the last day.

    Args:
        settings: The installation.
        release: The release, as `Releases.prepare` gives it.
        requests_per_hour: The traffic to plan for, if not the observed one.

    Raises:
        ReleaseError: There is no traffic to look at, and none was given.
    """
    spec = release.spec
    metric = spec.decision.metric if spec.decision else None
    try:
        seen = record(settings, release.endpoint, hours=HOURS, metric=metric)
    except ReleaseError as error:
        if requests_per_hour is None:
            raise ReleaseError(
                f"{release.endpoint!r} has no recorded traffic to plan with: {error.problem}",
                fix="say how much there will be: --requests-per-hour N",
            ) from None
        return forecast(spec, requests_per_hour=requests_per_hour, variants=len(release.variants))
    rate = requests_per_hour or seen.rate * 3_600
    edges = score_edges(seen.scores)
    return forecast(
        spec,
        requests_per_hour=rate,
        error_rate=float(seen.errors.mean()),
        latency_ms=histogram(LATENCY_EDGES_MS, seen.latency_ms),
        scores=histogram(edges, seen.scores[~np.isnan(seen.scores)]) if edges else NO_VALUES,
        users_per_hour=_users_per_hour(seen) if spec.sticky == "user" else None,
        outcome_sd=_spread(seen),
        outcomes_per_request=float(np.isfinite(seen.outcomes).mean()) or 1.0,
        variants=len(release.variants),
    )


def _users_per_hour(seen: Recording) -> float:
    return float(len(set(seen.users)) / seen.seconds[-1] * 3_600)


def _spread(seen: Recording) -> float | None:
    """Standard deviation of one known outcome; None where there are too few to tell."""
    known = seen.outcomes[np.isfinite(seen.outcomes)]
    return float(known.std()) if len(known) > 1 else None
