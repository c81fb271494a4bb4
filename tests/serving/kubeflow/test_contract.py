"""The contract of all platforms, on a cluster, in each mode as far as it can."""

from collections.abc import Iterator

import pytest

from headway.components.errors import ReleaseError
from headway.components.settings import Settings
from headway.serving.platform import TOTAL_WEIGHT, Platform
from tests.components.kubernetes.fake_kubernetes import FakeKubernetes
from tests.serving.kubeflow.fake_controllers import Controllers
from tests.serving.kubeflow.fake_prometheus import FakePrometheus
from tests.serving.kubeflow.worlds import ClusterWorld, deploy
from tests.serving.platform_contract import PlatformContract, World, route


def _world(api: FakeKubernetes, prometheus: FakePrometheus, settings: Settings, mode: str) -> ClusterWorld:
    return ClusterWorld(api, prometheus, settings.model_copy(update={"serving_mode": mode}))


class TestGateway(PlatformContract):
    @pytest.fixture
    def world(
        self, api: FakeKubernetes, controllers: Controllers, prometheus: FakePrometheus, settings: Settings
    ) -> World:
        return _world(api, prometheus, settings, "gateway")


class WholePercents(PlatformContract):
    """What the modes with whole percents refuse instead."""

    def test_a_mirror_is_part_of_the_route(self, world: World, platform: Platform, endpoint: str) -> None:
        variants = self.started(world, endpoint, 1, 2)
        wanted = route({"v1": TOTAL_WEIGHT, "v2": 0}, mirror="v2", mirror_weight=2_000)
        with pytest.raises(ReleaseError, match=r"serving_mode .* to gateway"):
            platform.check(endpoint, wanted, variants)
        with pytest.raises(ReleaseError, match="cannot copy requests"):
            platform.set_route(endpoint, wanted)
        assert platform.route(endpoint) is None

    def test_a_variant_with_traffic_stays(self, world: World, platform: Platform, endpoint: str) -> None:
        self.started(world, endpoint, 1, 2)
        platform.set_route(endpoint, route({"v1": 9_000, "v2": 1_000}))
        with pytest.raises(ReleaseError, match="v2"):
            platform.remove_variant(endpoint, "v2")
        assert platform.variant_state(endpoint, world.variant(2)).ready

    def test_fractions_of_a_percent_are_refused(self, world: World, platform: Platform, endpoint: str) -> None:
        variants = self.started(world, endpoint, 1, 2)
        before = route({"v1": 9_500, "v2": 500})
        platform.set_route(endpoint, before)
        wanted = route({"v1": 9_950, "v2": 50})
        with pytest.raises(ReleaseError, match=r"whole percents, got v1 99.5 %, v2 0.5 %"):
            platform.check(endpoint, wanted, variants)
        with pytest.raises(ReleaseError):
            platform.set_route(endpoint, wanted)
        assert platform.route(endpoint) == before


class TestCanary(WholePercents):
    @pytest.fixture
    def world(
        self, api: FakeKubernetes, controllers: Controllers, prometheus: FakePrometheus, settings: Settings
    ) -> Iterator[World]:
        deploy(api, "kserve-controller-manager", "kserve", "kserve/kserve-controller:v0.21.0")
        return _world(api, prometheus, settings, "canary")

    def test_three_variants_share(self, world: World, platform: Platform, endpoint: str) -> None:
        variants = self.started(world, endpoint, 1, 2, 3)
        wanted = route({"v1": 3_400, "v2": 3_300, "v3": 3_300})
        platform.check(endpoint, wanted, variants)
        platform.set_route(endpoint, wanted)
        assert platform.route(endpoint) == wanted


class TestKnative(WholePercents):
    @pytest.fixture
    def world(
        self, api: FakeKubernetes, controllers: Controllers, prometheus: FakePrometheus, settings: Settings
    ) -> World:
        return _world(api, prometheus, settings, "knative")

    def test_three_variants_share(self, world: World, platform: Platform, endpoint: str) -> None:
        variants = self.started(world, endpoint, 1, 2)
        third = world.variant(3)
        with pytest.raises(ReleaseError, match="two revisions"):
            platform.ensure_variant(endpoint, third)
        with pytest.raises(ReleaseError, match="two revisions"):
            platform.check(endpoint, route({"v1": 3_400, "v2": 3_300, "v3": 3_300}), [*variants, third])
        assert platform.variants(endpoint) == variants
