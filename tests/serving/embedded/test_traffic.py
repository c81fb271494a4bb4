"""Under continuous load: weights move, variants flip, processes are replaced and killed, and no request is lost."""

import os
import signal
from collections.abc import Callable

import pytest

from headway.components.errors import NotReadyError
from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.embedded.state import write_atomically
from headway.serving.platform import TOTAL_WEIGHT, Route, Share, Variant
from tests.serving.embedded.conftest import serve, server_pids, split
from tests.serving.embedded.load import Load, wait_until

VariantMaker = Callable[..., Variant]
RAMP = (0, 500, 2_500, 5_000, 10_000)


def load(platform: EmbeddedPlatform, endpoint: str, **options: object) -> Load:
    return Load(platform.address(endpoint).url, f"/{endpoint}/predict", **options)  # type: ignore[arg-type]


class TestMovingWeights:
    def test_a_canary_ramp_and_its_rollback(
        self, shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker
    ) -> None:
        serve(shared, endpoint, variant(1), variant(2), route=split(TOTAL_WEIGHT, 0))
        with load(shared, endpoint) as traffic:
            for weight in RAMP:
                shared.set_route(endpoint, split(TOTAL_WEIGHT - weight, weight))
                traffic.wait_for(700)
            seen = {user: list(variants) for user, variants in traffic.seen.items()}
            shared.set_route(endpoint, split(TOTAL_WEIGHT, 0))
            traffic.wait_for(1_500)
        assert traffic.lost == []
        assert traffic.total > 5_000
        # Nobody ever moved back during the ramp, and all came back with the rollback.
        assert all(variants in (["v1", "v2"], ["v2"]) for variants in seen.values())
        assert all(variants[-1] == "v1" for variants in traffic.seen.values())

    def test_a_blue_green_flip_and_back(self, shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker) -> None:
        serve(shared, endpoint, variant(1), route=split(TOTAL_WEIGHT))
        with load(shared, endpoint) as traffic:
            serve(shared, endpoint, variant(2))
            shared.set_route(endpoint, split(0, TOTAL_WEIGHT))
            traffic.wait_for(1_000)
            shared.set_route(endpoint, split(TOTAL_WEIGHT, 0))
            traffic.wait_for(1_000)
            shared.set_route(endpoint, split(0, TOTAL_WEIGHT))
            traffic.wait_for(300)
            shared.remove_variant(endpoint, "v1")
            traffic.wait_for(1_000)
        assert traffic.lost == []
        assert set(traffic.variants) == {"v1", "v2"}

    def test_a_slow_answer_outlives_its_variant(
        self, shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker
    ) -> None:
        serve(shared, endpoint, variant(1), variant(2), route=split(TOTAL_WEIGHT, 0))
        with load(shared, endpoint, connections=40, headers={"x-delay": "0.7"}) as traffic:
            shared.set_route(endpoint, split(0, TOTAL_WEIGHT))
            shared.remove_variant(endpoint, "v1")
            traffic.wait_for(80)
        assert traffic.lost == []
        assert set(traffic.variants) == {"v1", "v2"}


class TestProcesses:
    def test_replacing_a_server(self, shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker) -> None:
        serve(shared, endpoint, variant(1), route=split(TOTAL_WEIGHT))
        old = server_pids(shared, endpoint, "v1")
        with load(shared, endpoint) as traffic:
            shared.restart_variant(endpoint, "v1")
            traffic.wait_for(1_000)
        assert traffic.lost == []
        new = server_pids(shared, endpoint, "v1")
        assert len(new) == 1
        assert set(old).isdisjoint(new)
        assert traffic.pids == {*old, *new}

    def test_a_replacement_that_never_gets_ready_changes_nothing(
        self, own: EmbeddedPlatform, variant: VariantMaker
    ) -> None:
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        old = server_pids(own, "flights", "v1")
        with load(own, "flights") as traffic, pytest.raises(NotReadyError, match="the old ones go on"):
            own.restart_variant("flights", "v1", seconds=0)
        assert traffic.lost == []
        assert server_pids(own, "flights", "v1") == old
        assert own.installation.store.read().leaving == []

    def test_one_of_two_is_killed(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        self.two_replicas(own)
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        with load(own, "flights", connections=16) as traffic:
            for _ in range(3):
                wait_until(lambda: self.both_answer(own, traffic), 30, "both processes answer")
                os.kill(server_pids(own, "flights", "v1")[0], signal.SIGKILL)
                traffic.wait_for(600)
        assert traffic.lost == []
        assert len(traffic.pids) >= 4  # two at first, and at least two that came back

    def test_the_only_one_is_killed(self, shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker) -> None:
        """Requests wait for it to come back, which takes a second or two here."""
        serve(shared, endpoint, variant(1), route=split(TOTAL_WEIGHT))
        (victim,) = server_pids(shared, endpoint, "v1")
        with load(shared, endpoint) as traffic:
            os.kill(victim, signal.SIGKILL)
            traffic.wait_for(1_000)
        assert traffic.lost == []
        assert victim not in server_pids(shared, endpoint, "v1")
        assert traffic.slowest > 0.2

    def test_one_that_is_still_loading_gets_nothing(
        self, shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker
    ) -> None:
        """Version 7 listens a second before it is ready, as the real server does: its 503 then is not an answer."""
        loading = variant(7)
        serve(shared, endpoint, loading)
        shared.set_route(endpoint, Route(salt="s", shares=[Share(variant="v7", weight=TOTAL_WEIGHT)]))
        (victim,) = server_pids(shared, endpoint, "v7")
        with load(shared, endpoint) as traffic:
            os.kill(victim, signal.SIGKILL)
            traffic.wait_for(1_000)
        assert traffic.lost == []

    def two_replicas(self, platform: EmbeddedPlatform) -> None:
        from headway.serving.embedded.lifecycle import up

        write_atomically(platform.installation.layout.root / "gateway.yaml", "replicas: 2\ndrain_seconds: 0.1\n")
        up(platform)

    def both_answer(self, platform: EmbeddedPlatform, traffic: Load) -> bool:
        pids = server_pids(platform, "flights", "v1")
        return len(pids) == 2 and traffic.pids.issuperset(pids)
