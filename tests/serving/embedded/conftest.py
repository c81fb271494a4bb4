"""Real Envoy, real supervisor; the model server is a stand-in (standin.py) wherever its own work does not matter."""

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headway.components.bundle import ENVIRONMENT, bundle_digest, write_manifest
from headway.components.settings import Settings
from headway.components.signing import sign_bundle
from headway.components.trust import load_policy
from headway.serving.embedded.lifecycle import down, up
from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.embedded.state import write_atomically
from headway.serving.embedded.supervisor import end, orphans
from headway.serving.platform import TOTAL_WEIGHT, Route, Share, Variant

pytest.register_assert_rewrite("tests.serving.platform_contract")

STANDIN = (sys.executable, str(Path(__file__).parent / "standin.py"))
VERSIONS = (1, 2, 3, 7, 8, 9)

Bundles = dict[int, Path]
PlatformMaker = Callable[..., EmbeddedPlatform]


@pytest.fixture(scope="session")
def bundles(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """A bundle for each version; with 7, 8 and 9 the stand-in behaves badly. They differ in what nothing here reads."""
    trained = make_bundle(onnx="off")
    found = {}
    for version in VERSIONS:
        folder = tmp_path_factory.mktemp("bundle") / str(version)
        shutil.copytree(trained, folder)
        (folder / ENVIRONMENT).write_text(json.dumps({"version": version}))
        write_manifest(folder)
        found[version] = folder
    return found


@pytest.fixture(scope="session")
def template(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose bundles are signed and lie ready, as if they had been fetched."""
    home = tmp_path_factory.mktemp("template") / "home"
    settings = Settings(home=home)
    load_policy(settings)
    layout = EmbeddedPlatform(settings).installation.layout
    write_atomically(layout.root / "gateway.yaml", "drain_seconds: 0.1\n")
    for bundle in bundles.values():
        folder = layout.bundle(bundle_digest(bundle))
        shutil.copytree(bundle, folder)
        sign_bundle(folder, settings.resolved_signing_key)
    return home


@pytest.fixture(scope="session")
def make_platform(template: Path) -> Iterator[PlatformMaker]:
    """Make an installation, and take down whatever runs of it at the end."""
    made: list[EmbeddedPlatform] = []

    def make(home: Path, **settings: object) -> EmbeddedPlatform:
        shutil.copytree(template, home)
        made.append(EmbeddedPlatform(Settings.parse({"home": home, "gateway_port": 0, **settings}), server=STANDIN))
        return made[-1]

    yield make
    for platform in made:
        take_down(platform)


@pytest.fixture(scope="session")
def shared(make_platform: PlatformMaker, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedPlatform:
    """One installation that is up, for tests that take an endpoint of their own and break nothing."""
    platform = make_platform(tmp_path_factory.mktemp("shared") / "home")
    up(platform)
    return platform


@pytest.fixture
def own(make_platform: PlatformMaker, tmp_path: Path) -> Iterator[EmbeddedPlatform]:
    """An installation of its own that is up, for tests that kill or change what all endpoints share."""
    platform = make_platform(tmp_path / "home")
    up(platform)
    yield platform
    take_down(platform)


_numbers = itertools.count(1)


@pytest.fixture
def endpoint(shared: EmbeddedPlatform) -> Iterator[str]:
    """A name of its own at the shared installation, removed afterwards."""
    name = fresh_name()
    yield name
    shared.remove_endpoint(name)


@pytest.fixture
def variant(bundles: Bundles) -> Callable[..., Variant]:
    """Make the variant of a version: `variant(2)`."""
    return lambda version, **changes: make_variant(bundles, version, **changes)


def fresh_name() -> str:
    """An endpoint's name that no test has used yet."""
    return f"flights-{next(_numbers)}"


def make_variant(bundles: Bundles, version: int, **changes: object) -> Variant:
    """The variant of a version."""
    document = {
        "name": f"v{version}",
        "model": "flights",
        "version": version,
        "digest": bundle_digest(bundles[version]),
        "storage_uri": "file:///nowhere",
        **changes,
    }
    return Variant.parse(document)


def split(*weights: int, salt: str = "s", mirror: str | None = None, mirror_weight: int = 0) -> Route:
    """A route over v1, v2, …"""
    assert sum(weights) == TOTAL_WEIGHT
    shares = [Share(variant=f"v{number}", weight=weight) for number, weight in enumerate(weights, 1)]
    return Route(salt=salt, shares=shares, mirror=mirror, mirror_weight=mirror_weight)


def serve(platform: EmbeddedPlatform, endpoint: str, *variants: Variant, route: Route | None = None) -> None:
    """Start variants, wait until they are ready, and set a route."""
    from tests.serving.embedded.load import wait_until

    for variant in variants:
        platform.ensure_variant(endpoint, variant)
    for variant in variants:
        wait_until(lambda v=variant: platform.variant_state(endpoint, v).ready, 30, f"{variant.name} is ready")
    if route is not None:
        platform.set_route(endpoint, route)


def program_pid(platform: EmbeddedPlatform, program: str) -> int:
    """The process id of a running program; 0 if it does not run."""
    state = platform.installation.store.read()
    info = platform.installation.supervisor(state).programs().get(program)
    return info.pid if info else 0


def server_pids(platform: EmbeddedPlatform, endpoint: str, variant: str) -> list[int]:
    """The process ids of a variant."""
    served = platform.installation.store.read().endpoint(endpoint).served(variant)
    return [program_pid(platform, process.program) for process in served.processes] if served else []


def take_down(platform: EmbeddedPlatform) -> None:
    """Stop everything of an installation, whatever state a test left it in."""
    mark = platform.installation.store.read().id
    try:
        down(platform)
    finally:
        end(orphans(mark))
    alive = [pid for pid in orphans(mark) if pid != os.getpid()]
    assert alive == []
