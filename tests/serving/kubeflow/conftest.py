"""A fake cluster with its controllers, a fake Prometheus, and the platform on both."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headway.components.settings import Settings
from tests.components.kubernetes.fake_kubernetes import FakeKubernetes
from tests.serving.kubeflow.fake_controllers import Controllers
from tests.serving.kubeflow.fake_prometheus import FakePrometheus
from tests.serving.kubeflow.worlds import settings_of, with_surroundings


@pytest.fixture
def api() -> Iterator[FakeKubernetes]:
    """An API server with a Gateway and a ServingRuntime, and nobody who does anything."""
    with FakeKubernetes() as fake:
        with_surroundings(fake)
        yield fake


@pytest.fixture
def controllers(api: FakeKubernetes) -> Iterator[Controllers]:
    """The same with its controllers at work."""
    with Controllers(api) as running:
        yield running


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    with FakePrometheus() as fake:
        yield fake


@pytest.fixture
def settings(prometheus: FakePrometheus, tmp_path: Path) -> Settings:
    return settings_of(prometheus, home=tmp_path)
