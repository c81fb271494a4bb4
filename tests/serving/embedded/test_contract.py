"""The embedded platform passes the contract of all platforms."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.platform import Platform, Variant
from tests.serving.embedded.conftest import STANDIN, Bundles, fresh_name, make_variant, server_pids
from tests.serving.embedded.load import wait_until
from tests.serving.platform_contract import PlatformContract


class EmbeddedWorld:
    """The shared installation."""

    patience = 30.0

    def __init__(self, platform: EmbeddedPlatform, bundles: Bundles) -> None:
        self.platform: Platform = platform
        self._embedded = platform
        self._bundles = bundles
        self.names: list[str] = []

    def reopen(self) -> Platform:
        return EmbeddedPlatform(self._embedded.settings, server=STANDIN)

    def endpoint(self) -> str:
        self.names.append(fresh_name())
        return self.names[-1]

    def variant(self, version: int) -> Variant:
        return make_variant(self._bundles, version)

    def stuck(self) -> Variant:
        return make_variant(self._bundles, 9)

    def answer(self, endpoint: str, variant: str, *, good: int = 0, refused: int = 0, failed: int = 0) -> None:
        address = self.platform.address(endpoint, variant)
        with httpx.Client(base_url=address.url, headers=address.headers) as client:
            for count, status in ((good, 200), (refused, 400), (failed, 500)):
                for _ in range(count):
                    answer = client.post(f"/{endpoint}/predict", json={}, headers={"x-answer": str(status)})
                    assert answer.status_code == status

    def restart(self, endpoint: str, variant: str) -> None:
        self._kill(endpoint, variant)
        wanted = next(each for each in self.platform.variants(endpoint) if each.name == variant)
        wait_until(lambda: self.platform.variant_state(endpoint, wanted).ready, self.patience, "it is back")

    @contextmanager
    def blind(self, endpoint: str, variant: str) -> Iterator[None]:
        (pid,) = server_pids(self._embedded, endpoint, variant)
        os.kill(pid, signal.SIGSTOP)
        yield
        os.kill(pid, signal.SIGCONT)

    def _kill(self, endpoint: str, variant: str) -> None:
        before = server_pids(self._embedded, endpoint, variant)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: set(server_pids(self._embedded, endpoint, variant)).isdisjoint({*before, 0}),
            self.patience,
            "the killed processes were started again",
        )


class TestContract(PlatformContract):
    @pytest.fixture
    def world(self, shared: EmbeddedPlatform, bundles: Bundles) -> Iterator[EmbeddedWorld]:
        world = EmbeddedWorld(shared, bundles)
        yield world
        for name in world.names:
            shared.remove_endpoint(name)
