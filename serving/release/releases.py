"""Releases as people and pipelines start and steer them: `headway release`, and the same in Python.

    releases = Releases()
    release = releases.start("flights", "challenger", actor="ada", reason="retrained on June")
    releases.wait(release.id)

What is refused is refused here, before anything is started: a version that does not pass the trust gate, a plan that
the platform cannot carry out, a second release of an endpoint.
"""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headway.components.errors import RegistryError, ReleaseError
from headway.components.settings import Settings, load_settings
from headway.serving.platform import Platform, Route, Share, Variant
from headway.serving.release import engine
from headway.serving.release.driver import POLL_SECONDS, Driver
from headway.serving.release.engine import Step
from headway.serving.release.plan import ReleaseSpec, Strategy
from headway.serving.release.sprt import higher_is_better
from headway.serving.release.state import Release, State
from headway.serving.release.store import Seen

if TYPE_CHECKING:
    from pathlib import Path

    from headway.components.bundle import BundleInfo
    from headway.components.register.registry import Registry
    from headway.components.register.store import Version

_EDGES = 20
"""Bins in which a regression's predictions are counted: twentieths of the training target."""


class Releases:
    """The releases of an installation.

    Args:
        settings: The installation; the settings in force by default.
        platform: Where endpoints are served; the settings' by default.
        registry: Where versions come from; the settings' by default.
        driver: What drives the releases that `wait` waits for; one over platform and registry by default.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        platform: Platform | None = None,
        registry: "Registry | None" = None,
        driver: Driver | None = None,
    ) -> None:
        self.settings = settings or load_settings()
        self.driver = driver or Driver(self.settings, platform=platform, registry=registry)
        self.platform = self.driver.platform
        self.registry = self.driver.registry
        self.store = self.driver.store

    def prepare(
        self,
        model: str,
        ref: str | int,
        *,
        spec: ReleaseSpec | None = None,
        others: Sequence[str | int] = (),
        endpoint: str | None = None,
        actor: str,
        reason: str,
    ) -> Release:
        """A release as it would start, with all that can be refused refused; nothing is stored or changed.

        Args:
            model: The model's name in the registry.
            ref: The version to release: a number, a semantic version or an alias.
            spec: What the release shall do; the defaults without one. An endpoint that does not exist gets its first
                variant, whatever the strategy.
            others: A/B: versions between the stable one and the newcomer.
            endpoint: The endpoint; the model's name by default.
            actor: Who starts it.
            reason: Why, in words; it goes into the ledger.

        Raises:
            UnknownNameError: There is no such model or version.
            TrustError: The version does not pass the trust gate.
            ReleaseError: There is nothing to release, or the platform cannot carry it out.
            ConfigError: The decision is about an outcome of one's own, and does not say which direction is good.
        """
        _require_reason(reason)
        endpoint = endpoint or model
        versions = [self.registry.version(model, each) for each in (*others, ref)]
        live = self._live(endpoint)
        if any(variant.version == versions[-1].version for variant in live):
            raise ReleaseError(
                f"{versions[-1].label} serves {endpoint!r} already", expected="a version that gets no traffic yet"
            )
        spec = spec or ReleaseSpec()
        if spec.decision is not None:
            higher_is_better(spec.decision)
        if not live:
            spec = spec.model_copy(update={"strategy": Strategy.FIRST})
            versions = versions[-1:]
        edges = live[0].score_edges if live else None
        new = [self._variant(version, edges) for version in versions]
        return self._checked(self._new(endpoint, model, spec, [*live[:1], *new], actor, reason))

    def start(
        self,
        model: str,
        ref: str | int,
        *,
        spec: ReleaseSpec | None = None,
        others: Sequence[str | int] = (),
        endpoint: str | None = None,
        actor: str,
        reason: str,
    ) -> Release:
        """Start a release; a driver carries it on. Arguments and errors as in `prepare`.

        Raises:
            ReleaseConflictError: The endpoint has an active release.
        """
        release = self.prepare(model, ref, spec=spec, others=others, endpoint=endpoint, actor=actor, reason=reason)
        return self._begin(release)

    def serve(self, model: str, *, actor: str, reason: str) -> Release | None:
        """Serve a model's champion at an endpoint of the model's name, unless there is one, and wait until it does so.

        Args:
            model: The model's name in the registry.
            actor: Who wants it.
            reason: Why, in words; it goes into the ledger.

        Returns:
            The endpoint's first release; None where the endpoint is there already.

        Raises:
            UnknownNameError: There is no such model, or it has no champion.
            TrustError: The champion does not pass the trust gate.
            ReleaseError: It did not pass its checks, or did not become ready.
        """
        if self.platform.route(model) is not None:
            return None
        active = self.store.active(model) or self.start(model, "champion", actor=actor, reason=reason)
        ended = self._finish(active)
        if ended.state is not State.PROMOTED:
            raise ReleaseError(
                f"Version {ended.newcomer.version} of {model!r} does not serve: {ended.ended_why}",
                fix=f"headway release explain {model}",
            )
        return ended

    def wait(
        self,
        release_id: str,
        *,
        until: Callable[[Release], bool] = lambda release: release.state.over or bool(release.held),
        poll: float = POLL_SECONDS,
        on_change: Callable[[Release], None] = lambda release: None,
    ) -> Release:
        """Drive a release, or watch another driver do so, until it is over or held for a person.

        Args:
            release_id: The release.
            until: Until when, if not that.
            poll: Seconds between two looks.
            on_change: Called after each look.
        """
        return self.driver.run(release_id, until=until, poll=poll, on_change=on_change)

    def status(self, endpoint: str) -> Release:
        """The endpoint's active release, else its last one.

        Raises:
            UnknownNameError: It never had one.
        """
        return self.store.latest(endpoint)

    def history(self, endpoint: str | None = None, *, limit: int = 50) -> list[Release]:
        """Releases, the newest first."""
        return self.store.history(endpoint, limit=limit)

    def verdicts(self, release_id: str) -> list[Seen]:
        """The verdicts of a release over time, with their numbers."""
        return self.store.verdicts(release_id)

    def pause(self, endpoint: str, *, actor: str) -> Release:
        """Stop moving traffic. Guards keep watch: a failing newcomer is taken back all the same.

        Raises:
            ReleaseError: There is no active release, or it is paused already.
        """
        return self._tell(endpoint, lambda release: engine.pause(release, actor))

    def resume(self, endpoint: str, *, actor: str) -> Release:
        """Go on after a pause or a hold.

        Raises:
            ReleaseError: There is no active release, or it is neither paused nor held.
        """
        return self._tell(endpoint, lambda release: engine.resume(release, actor, _now()))

    def promote(self, endpoint: str, *, actor: str, reason: str) -> Release:
        """Skip the rest of the stages on a person's word, which the ledger keeps.

        Raises:
            ReleaseError: There is no active release, or its newcomer has not passed its checks.
        """
        _require_reason(reason)
        return self._tell(endpoint, lambda release: engine.promote(release, actor, reason, _now()))

    def abort(self, endpoint: str, *, actor: str, reason: str) -> Release:
        """End the active release and restore the route from before it.

        Raises:
            ReleaseError: There is no active release.
        """
        _require_reason(reason)
        return self._tell(endpoint, lambda release: engine.end(release, actor, reason, _now(), to=State.ABORTED))

    def rollback(self, endpoint: str, *, to: str | int | None = None, actor: str, reason: str) -> Release | None:
        """Go back to what served before, in the gateway and in the registry, and wait until it is so.

        During a release this ends it; afterwards it is a release of its own, to the champion before or to any version
        that is still there. The newcomer need not be healthy. Calling it again changes nothing.

        Args:
            endpoint: The endpoint.
            to: The version to go back to; what was before by default.
            actor: Who rolls back.
            reason: Why, in words; it goes into the ledger.

        Returns:
            The release that went back; None when that version has all the traffic already.

        Raises:
            TrustError: The version does not pass the trust gate; traffic is unchanged.
            RegistryError: There is nothing to go back to, or its files are gone; traffic is unchanged.
        """
        _require_reason(reason)
        active = self.store.active(endpoint)
        if active is not None and active.spec.strategy is not Strategy.ROLLBACK:
            wanted = None if to is None else self.registry.version(active.model, to).version
            self._refuse_gone(active, wanted)
            ended = self._tell(
                endpoint, lambda release: engine.end(release, actor, reason, _now(), to=State.ROLLED_BACK)
            )
            ended = self._finish(ended)
            if wanted in (None, ended.stable.version):
                return ended
        elif active is not None:
            return self._finish(active)
        return self._back_to(endpoint, to, actor, reason)

    def _back_to(self, endpoint: str, to: str | int | None, actor: str, reason: str) -> Release | None:
        live = self._live(endpoint)
        if not live:
            raise ReleaseError(f"Endpoint {endpoint!r} serves nothing", fix=f"headway release start {endpoint} VERSION")
        target = self._target(live[0].model, live, to)
        if target is None or [variant.version for variant in live] == [target.version]:
            return None
        variants = [*live, self._variant(target, live[0].score_edges)]
        spec = ReleaseSpec(strategy=Strategy.ROLLBACK)
        release = self._new(endpoint, live[0].model, spec, variants, actor, reason)
        return self._finish(self._begin(self._checked(release)))

    def _target(self, model: str, live: list[Variant], to: str | int | None) -> "Version | None":
        if to is not None:
            return self.registry.version(model, to)
        try:
            return self.registry.version(model, "previous")
        except RegistryError:
            # Nothing stands before the champion: right after a rollback that is the state that was asked for.
            champion = self.registry.find_champion(model)
            if champion is not None and self._was_rolled_back(model) and live[0].version == champion.version:
                return None
            raise

    def _was_rolled_back(self, model: str) -> bool:
        moves = [row for row in self.registry.ledger.rows(model=model) if row.body.get("champion")]
        return bool(moves) and moves[-1].kind == "rolled_back"

    def _finish(self, release: Release) -> Release:
        return self.wait(release.id, until=lambda seen: seen.state.over, poll=0.5)

    def _refuse_gone(self, active: Release, wanted: int | None) -> None:
        """Refuse a rollback to a version that cannot be served, before the traffic is touched."""
        if wanted is not None:
            with self.registry.check(self.registry.version(active.model, wanted)):
                return

    def _new(
        self, endpoint: str, model: str, spec: ReleaseSpec, variants: list[Variant], actor: str, reason: str
    ) -> Release:
        now = _now()
        champion = self.registry.find_champion(model)
        unique = uuid.uuid4().hex[:6]
        return Release(
            id=f"{endpoint}-{now:%Y%m%d-%H%M%S}-{unique}",
            endpoint=endpoint,
            model=model,
            spec=spec,
            variants=variants,
            salt=f"{endpoint}-{unique}",
            before=_without_idle(self.platform.route(endpoint)),
            champion=champion.version if champion else None,
            actor=actor,
            reason=reason,
            created=now,
            entered=now,
            clock=now,
        )

    def _checked(self, release: Release) -> Release:
        """The release itself, unless the platform or the trust gate refuses it."""
        names = [variant.name for variant in release.variants]
        if len(set(names)) != len(names):
            raise ReleaseError(f"A version stands twice in {', '.join(names)}", expected="different versions")
        if release.spec.shares and len(release.spec.shares) != len(names):
            raise ReleaseError(
                f"{len(release.spec.shares)} shares for {len(names)} variants", expected="one share for each variant"
            )
        for stage in release.stages:
            self.platform.check(release.endpoint, stage.route(release.variants, release.salt), release.variants)
        for variant in release.variants[1:] or release.variants:
            with self.registry.check(self.registry.version(release.model, variant.version)):
                continue
        return release

    def _begin(self, release: Release) -> Release:
        step = engine.begin(release)
        return self.store.add(step.release, step.events)

    def _tell(self, endpoint: str, say: Callable[[Release], Step]) -> Release:
        release = self.store.active(endpoint)
        if release is None:
            raise ReleaseError(
                f"Endpoint {endpoint!r} has no active release", fix=f"headway release history {endpoint} shows the past"
            )
        step = say(release)
        return self.store.save(step.release, step.events, now=_now())

    def _live(self, endpoint: str) -> list[Variant]:
        """The variants that get traffic, the one with the most first."""
        route = self.platform.route(endpoint)
        weights = route.weights if route else {}
        live = [variant for variant in self.platform.variants(endpoint) if weights.get(variant.name)]
        return sorted(live, key=lambda variant: -weights[variant.name])

    def _variant(self, version: "Version", edges: list[float] | None) -> Variant:
        return Variant(
            name=f"v{version.version}",
            model=version.name,
            version=version.version,
            digest=version.digest,
            storage_uri=self.registry.storage_uri(version),
            score_edges=self._score_edges(version) if edges is None else edges,
        )

    def _score_edges(self, version: "Version") -> list[float]:
        """The bins for an endpoint's predictions, from its first version: they stay the same for all that follow."""
        with self.registry.check(version) as checked:
            return _edges(checked.info, checked.folder)


def _edges(info: "BundleInfo", folder: "Path") -> list[float]:
    from headway.components.bundle import PROFILE
    from headway.components.data_validate.profile import Profile
    from headway.components.data_validate.summaries import NumberProfile

    path = folder / PROFILE
    if info.task != "regression" or not path.is_file():
        return []
    target = Profile.from_json(path.read_text(encoding="utf-8"), where=str(path)).columns.get(info.target)
    if not isinstance(target, NumberProfile):
        return []
    quantiles = [target.quantile(step / _EDGES) for step in range(1, _EDGES)]
    return sorted({value for value in quantiles if value is not None})


def _without_idle(route: Route | None) -> Route | None:
    """A route without the variants that get nothing, which may be gone by the time it is restored."""
    if route is None:
        return None
    shares = [Share(variant=share.variant, weight=share.weight) for share in route.shares if share.weight]
    return Route(salt=route.salt, shares=shares)


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise ReleaseError("There is no reason", expected="why, in words: it goes into the ledger")


def _now() -> datetime:
    return datetime.now(UTC)
