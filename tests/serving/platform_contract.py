"""What every platform does, whatever it runs on: one suite, taken over by subclassing it.

A platform's own tests define a `World` (the platform, and what makes its surroundings move) and say

    class TestContract(PlatformContract):
        @pytest.fixture
        def world(self, ...) -> World: ...

Only the protocol is used here. Each test takes an endpoint of its own, so that a world may be shared between tests.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest

from headway.components.errors import MeasurementError, NotReadyError, ReleaseError
from headway.serving.platform import TOTAL_WEIGHT, Phase, Platform, Route, Share, Variant


class World(Protocol):
    """A platform under test and its surroundings."""

    platform: Platform
    patience: float
    """Seconds that a change may take to show."""

    def reopen(self) -> Platform:
        """The same platform as another process would open it."""

    def endpoint(self) -> str:
        """A name that no test has used yet."""

    def variant(self, version: int) -> Variant:
        """Version 1, 2 or 3, named `v1`, `v2`, `v3`; it becomes ready soon after `ensure_variant`."""

    def stuck(self) -> Variant:
        """A variant that can be started but whose model never answers."""

    def answer(self, endpoint: str, variant: str, *, good: int = 0, refused: int = 0, failed: int = 0) -> None:
        """Make one variant of a routed endpoint answer so many requests: 200, 400 by the contract's check, and 500."""

    def restart(self, endpoint: str, variant: str) -> None:
        """Make the variant's server start again from nothing, and wait until it is back."""

    def blind(self, endpoint: str, variant: str) -> AbstractContextManager[None]:
        """While it lasts, the variant's metrics cannot be read."""


def route(weights: Mapping[str, int], *, mirror: str | None = None, mirror_weight: int = 0) -> Route:
    """A route from weights in order."""
    shares = [Share(variant=name, weight=weight) for name, weight in weights.items()]
    return Route(salt="contract", shares=shares, mirror=mirror, mirror_weight=mirror_weight)


def eventually(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.02)


class PlatformContract:
    """The suite."""

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError("the subclass defines its world")

    @pytest.fixture
    def platform(self, world: World) -> Platform:
        return world.platform

    @pytest.fixture
    def endpoint(self, world: World) -> str:
        return world.endpoint()

    def started(self, world: World, endpoint: str, *versions: int) -> list[Variant]:
        """Variants that are ready and get no traffic yet."""
        variants = [world.variant(version) for version in versions]
        for variant in variants:
            world.platform.ensure_variant(endpoint, variant)
        for variant in variants:
            self.wait_ready(world, endpoint, variant)
        return variants

    def wait_ready(self, world: World, endpoint: str, variant: Variant) -> None:
        eventually(
            lambda: world.platform.variant_state(endpoint, variant).ready, world.patience, f"{variant.name} is ready"
        )

    # ---- variants

    def test_it_has_a_name(self, platform: Platform) -> None:
        assert platform.name in ("embedded", "kubeflow")

    def test_nothing_is_there_at_first(self, world: World, platform: Platform, endpoint: str) -> None:
        assert endpoint not in platform.endpoints()
        assert platform.route(endpoint) is None
        assert platform.variants(endpoint) == []
        assert platform.variant_state(endpoint, world.variant(1)).phase is Phase.ABSENT

    def test_a_variant_becomes_ready(self, world: World, platform: Platform, endpoint: str) -> None:
        variant = world.variant(1)
        platform.ensure_variant(endpoint, variant)
        assert platform.variants(endpoint) == [variant]
        assert platform.variant_state(endpoint, variant).phase in (Phase.STARTING, Phase.READY)
        self.wait_ready(world, endpoint, variant)
        assert platform.route(endpoint) is None  # it gets no traffic by itself

    def test_ensuring_twice_changes_nothing(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        world.reopen().ensure_variant(endpoint, world.variant(1))
        assert platform.variant_state(endpoint, world.variant(1)).ready
        assert [variant.name for variant in platform.variants(endpoint)] == ["v1", "v2"]

    def test_another_digest_under_the_same_name_is_not_ready(
        self, world: World, platform: Platform, endpoint: str
    ) -> None:
        (variant,) = self.started(world, endpoint, 1)
        other = variant.model_copy(update={"digest": "0" * 64})
        assert not platform.variant_state(endpoint, other).ready
        assert platform.variant_state(endpoint, variant).ready

    def test_a_stuck_variant_says_why(self, world: World, platform: Platform, endpoint: str) -> None:
        stuck = world.stuck()
        platform.ensure_variant(endpoint, stuck)
        eventually(lambda: platform.variant_state(endpoint, stuck).reason != "", world.patience, "a reason is given")
        assert not platform.variant_state(endpoint, stuck).ready

    # ---- routes

    def test_a_route_takes_effect_and_is_kept(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        for weight in (0, 500, 2_500, 10_000):
            wanted = route({"v1": TOTAL_WEIGHT - weight, "v2": weight})
            platform.set_route(endpoint, wanted)
            assert platform.route(endpoint) == wanted
            assert world.reopen().route(endpoint) == wanted
        assert endpoint in platform.endpoints()

    def test_setting_a_route_twice_is_setting_it_once(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        wanted = route({"v1": 7_000, "v2": 3_000})
        platform.set_route(endpoint, wanted)
        world.reopen().set_route(endpoint, wanted)
        assert platform.route(endpoint) == wanted
        assert platform.endpoints().count(endpoint) == 1

    def test_no_traffic_on_what_is_not_ready(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1)
        before = route({"v1": TOTAL_WEIGHT})
        platform.set_route(endpoint, before)
        stuck = world.stuck()
        platform.ensure_variant(endpoint, stuck)
        refused = [
            route({"v1": 9_999, stuck.name: 1}),
            route({"v1": TOTAL_WEIGHT}, mirror=stuck.name, mirror_weight=100),
            route({"v1": 9_000, "absent": 1_000}),
        ]
        for wanted in refused:
            with pytest.raises(NotReadyError):
                platform.set_route(endpoint, wanted)
            assert platform.route(endpoint) == before

    def test_a_first_route_needs_a_ready_variant(self, world: World, platform: Platform, endpoint: str) -> None:
        stuck = world.stuck()
        platform.ensure_variant(endpoint, stuck)
        with pytest.raises(NotReadyError):
            platform.set_route(endpoint, route({stuck.name: TOTAL_WEIGHT}))
        assert platform.route(endpoint) is None

    def test_what_gets_nothing_need_not_be_ready(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1)
        stuck = world.stuck()
        platform.ensure_variant(endpoint, stuck)
        wanted = route({"v1": TOTAL_WEIGHT, stuck.name: 0})
        platform.set_route(endpoint, wanted)
        assert platform.route(endpoint) == wanted

    def test_a_rollback_needs_no_healthy_canary(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        platform.set_route(endpoint, route({"v1": 5_000, "v2": 5_000}))
        platform.set_route(endpoint, route({"v1": TOTAL_WEIGHT}))
        platform.remove_variant(endpoint, "v2")
        platform.set_route(endpoint, route({"v1": TOTAL_WEIGHT, "v2": 0}))
        assert platform.route(endpoint) == route({"v1": TOTAL_WEIGHT, "v2": 0})

    def test_a_mirror_is_part_of_the_route(self, world: World, platform: Platform, endpoint: str) -> None:
        variants = self.started(world, endpoint, 1, 2)
        wanted = route({"v1": TOTAL_WEIGHT, "v2": 0}, mirror="v2", mirror_weight=2_000)
        platform.check(endpoint, wanted, variants)
        platform.set_route(endpoint, wanted)
        assert platform.route(endpoint) == wanted
        platform.set_route(endpoint, route({"v1": TOTAL_WEIGHT, "v2": 0}))
        assert platform.route(endpoint) == route({"v1": TOTAL_WEIGHT, "v2": 0})

    def test_three_variants_share(self, world: World, platform: Platform, endpoint: str) -> None:
        variants = self.started(world, endpoint, 1, 2, 3)
        wanted = route({"v1": 3_334, "v2": 3_333, "v3": 3_333})
        platform.check(endpoint, wanted, variants)
        platform.set_route(endpoint, wanted)
        assert platform.route(endpoint) == wanted

    def test_endpoints_do_not_touch_each_other(self, world: World, platform: Platform, endpoint: str) -> None:
        other = world.endpoint()
        self.started(world, endpoint, 1)
        self.started(world, other, 1, 2)
        platform.set_route(endpoint, route({"v1": TOTAL_WEIGHT}))
        platform.set_route(other, route({"v1": 4_000, "v2": 6_000}))
        platform.remove_endpoint(endpoint)
        assert platform.route(other) == route({"v1": 4_000, "v2": 6_000})
        assert [variant.name for variant in platform.variants(other)] == ["v1", "v2"]
        assert endpoint not in platform.endpoints()
        assert platform.endpoints() == sorted(platform.endpoints())

    # ---- removing

    def test_a_variant_with_traffic_stays(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        platform.set_route(endpoint, route({"v1": 9_000, "v2": 1_000}))
        with pytest.raises(ReleaseError, match="v2"):
            platform.remove_variant(endpoint, "v2")
        platform.set_route(endpoint, route({"v1": TOTAL_WEIGHT}, mirror="v2", mirror_weight=1_000))
        with pytest.raises(ReleaseError, match="v2"):
            platform.remove_variant(endpoint, "v2")
        assert platform.variant_state(endpoint, world.variant(2)).ready

    def test_a_variant_without_traffic_goes(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        platform.set_route(endpoint, route({"v1": 0, "v2": TOTAL_WEIGHT}))
        platform.remove_variant(endpoint, "v1")
        world.reopen().remove_variant(endpoint, "v1")
        assert [variant.name for variant in platform.variants(endpoint)] == ["v2"]
        assert platform.variant_state(endpoint, world.variant(1)).phase is Phase.ABSENT
        live = platform.route(endpoint)
        assert live is not None
        assert live.weights["v2"] == TOTAL_WEIGHT

    def test_a_variant_comes_back(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        platform.set_route(endpoint, route({"v1": TOTAL_WEIGHT, "v2": 0}))
        platform.remove_variant(endpoint, "v2")
        self.started(world, endpoint, 2)
        platform.set_route(endpoint, route({"v1": 0, "v2": TOTAL_WEIGHT}))
        assert platform.route(endpoint) == route({"v1": 0, "v2": TOTAL_WEIGHT})

    def test_an_endpoint_goes_with_all_it_has(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        platform.set_route(endpoint, route({"v1": 9_000, "v2": 1_000}))
        platform.remove_endpoint(endpoint)
        world.reopen().remove_endpoint(endpoint)
        assert endpoint not in platform.endpoints()
        assert platform.route(endpoint) is None
        assert platform.variants(endpoint) == []

    def test_removing_what_never_was_is_nothing(self, platform: Platform, endpoint: str) -> None:
        platform.remove_variant(endpoint, "v1")
        platform.remove_endpoint(endpoint)
        assert platform.variants(endpoint) == []

    # ---- addresses

    def test_an_address_is_a_url(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        platform.set_route(endpoint, route({"v1": TOTAL_WEIGHT, "v2": 0}))
        everybody, one = platform.address(endpoint), platform.address(endpoint, "v2")
        assert everybody.url.startswith(("http://", "https://"))
        assert not everybody.url.endswith("/")
        assert one.url.startswith(("http://", "https://"))
        assert (one.url, one.headers) != (everybody.url, everybody.headers)

    # ---- measuring

    def measured(self, world: World, endpoint: str) -> str:
        """An endpoint with two variants that both get traffic."""
        self.started(world, endpoint, 1, 2)
        world.platform.set_route(endpoint, route({"v1": 5_000, "v2": 5_000}))
        return endpoint

    def test_a_reading_starts_now(self, world: World, platform: Platform, endpoint: str) -> None:
        self.measured(world, endpoint)
        world.answer(endpoint, "v1", good=5)
        first = platform.read(endpoint, "v1")
        assert first.counts.requests == 0
        assert first.counts.latency_ms.total == 0
        assert first.cursor

    def test_a_reading_counts_each_answer_once(self, world: World, platform: Platform, endpoint: str) -> None:
        self.measured(world, endpoint)
        cursor = platform.read(endpoint, "v1").cursor
        other = platform.read(endpoint, "v2").cursor
        world.answer(endpoint, "v1", good=40, refused=3, failed=2)
        eventually(
            lambda: world.reopen().read(endpoint, "v1", cursor).counts.latency_ms.total >= 45,
            world.patience,
            "45 answers are counted",
        )
        reading = platform.read(endpoint, "v1", cursor)
        counts = reading.counts
        assert (counts.requests, counts.server_errors, counts.client_errors, counts.rejected) == (45, 2, 3, 3)
        assert counts.latency_ms.total == 45
        assert counts.latency_ms.edges == sorted(counts.latency_ms.edges)
        assert platform.read(endpoint, "v1", reading.cursor).counts.requests == 0
        assert platform.read(endpoint, "v2", other).counts.requests == 0

    def test_readings_add_up(self, world: World, platform: Platform, endpoint: str) -> None:
        self.measured(world, endpoint)
        start = cursor = platform.read(endpoint, "v2").cursor
        total, good = 0, 0
        for number in (7, 1, 12):
            world.answer(endpoint, "v2", good=number)
            good += number
            reading = platform.read(endpoint, "v2", cursor)
            total, cursor = total + reading.counts.requests, reading.cursor
        eventually(
            lambda: platform.read(endpoint, "v2", start).counts.requests == good, world.patience, "all are counted"
        )
        assert total + platform.read(endpoint, "v2", cursor).counts.requests == good

    def test_a_restart_never_counts_down(self, world: World, platform: Platform, endpoint: str) -> None:
        self.measured(world, endpoint)
        cursor = platform.read(endpoint, "v1").cursor
        world.answer(endpoint, "v1", good=20, refused=4)
        eventually(
            lambda: platform.read(endpoint, "v1", cursor).counts.rejected == 4, world.patience, "refusals are counted"
        )
        cursor = platform.read(endpoint, "v1", cursor).cursor
        world.restart(endpoint, "v1")
        world.answer(endpoint, "v1", good=3, refused=1)
        eventually(
            lambda: platform.read(endpoint, "v1", cursor).counts.rejected == 1, world.patience, "one refusal is counted"
        )
        counts = platform.read(endpoint, "v1", cursor).counts
        assert counts.requests >= 4
        assert counts.latency_ms.total >= 0
        assert min(counts.latency_ms.counts) >= 0

    def test_what_cannot_be_read_is_an_error(self, world: World, platform: Platform, endpoint: str) -> None:
        self.measured(world, endpoint)
        cursor = platform.read(endpoint, "v1").cursor
        with world.blind(endpoint, "v1"), pytest.raises(MeasurementError):
            platform.read(endpoint, "v1", cursor)
        with pytest.raises(MeasurementError):
            platform.read(endpoint, "absent", cursor)
        with pytest.raises(MeasurementError):
            platform.read(endpoint, "v1", "no cursor of ours")

    def test_users_are_counted_or_unknown(self, world: World, platform: Platform, endpoint: str) -> None:
        self.measured(world, endpoint)
        found = platform.users(endpoint, datetime.now(UTC) - timedelta(hours=1))
        assert found is None or all(count >= 0 for count in found.values())

    # ---- plans

    def test_a_plan_names_its_variants(self, world: World, platform: Platform, endpoint: str) -> None:
        with pytest.raises(ReleaseError, match="v2"):
            platform.check(endpoint, route({"v1": 5_000, "v2": 5_000}), [world.variant(1)])
