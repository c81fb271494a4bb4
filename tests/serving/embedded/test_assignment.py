"""Envoy gives each user the variant that `assign` names, for ever."""

import os
import signal
from collections.abc import Callable

import httpx
import pytest

from headway.serving.embedded.envoy import PROGRAM
from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.experiment.assignment import assign
from headway.serving.platform import TOTAL_WEIGHT, Route, Variant
from tests.serving.embedded.conftest import program_pid, serve, split
from tests.serving.embedded.load import variants_of, wait_until

VariantMaker = Callable[..., Variant]


def differing(platform: EmbeddedPlatform, endpoint: str, route: Route, users: list[str]) -> list[str]:
    """Users whom the gateway sends elsewhere than the route says."""
    platform.set_route(endpoint, route)
    found = variants_of(platform.address(endpoint).url, f"/{endpoint}/predict", users)
    return [user for user in users if found[user] != assign(route, user)]


@pytest.mark.slow
def test_a_hundred_thousand_users(shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker) -> None:
    serve(shared, endpoint, variant(1), variant(2), variant(3))
    users = [f"user-{number}" for number in range(100_000)]
    assert differing(shared, endpoint, split(8_000, 1_500, 500, salt="exp.42-b"), users) == []


@pytest.mark.parametrize(
    "weights", [(9_999, 1), (1, 9_999), (5_000, 5_000), (9_500, 500), (0, 10_000), (3_334, 3_333, 3_333)]
)
def test_each_split(shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker, weights: tuple[int, ...]) -> None:
    serve(shared, endpoint, variant(1), variant(2), variant(3))
    users = [f"{number:x}" for number in range(2_000)]
    assert differing(shared, endpoint, split(*weights, salt=f"salt{sum(weights[1:])}"), users) == []


def test_names_of_every_kind(shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker) -> None:
    serve(shared, endpoint, variant(1), variant(2))
    odd = [
        "",
        "0",
        "42",
        "a:b",
        "ada@example.com",
        "x" * 500,
        "(.*)",
        "\\1",
        "%s",
        "josé",
        "Łukasz",
        "名前",
        "a b",
        "'\"",
    ]
    # As bytes on the wire: UTF-8, which Envoy hashes as it is.
    users = [name.encode().decode("latin-1") for name in [*odd, *(f"ü{number}" for number in range(100))]]
    route = split(5_000, 5_000, salt="A_b.c-d")
    shared.set_route(endpoint, route)
    url = shared.address(endpoint).url
    with httpx.Client(base_url=url) as client:
        for user in users:
            answer = client.post(f"/{endpoint}/predict", json={}, headers=[(b"x-user-id", user.encode("latin-1"))])
            assert answer.headers["x-variant"] == assign(route, user.encode("latin-1").decode()), user


def test_a_new_salt_is_a_new_assignment(shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker) -> None:
    serve(shared, endpoint, variant(1), variant(2))
    users = [f"user-{number}" for number in range(2_000)]
    path, seconds = f"/{endpoint}/predict", []
    for salt in ("first", "second"):
        shared.set_route(endpoint, split(5_000, 5_000, salt=salt))
        found = variants_of(shared.address(endpoint).url, path, users)
        seconds.append({user for user in users if found[user] == "v2"})
    assert len(seconds[0] & seconds[1]) == pytest.approx(500, abs=100)  # independent: a quarter is in both


def test_without_a_user_each_request_is_on_its_own(
    shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker
) -> None:
    serve(shared, endpoint, variant(1), variant(2), route=split(5_000, 5_000))
    with httpx.Client(base_url=shared.address(endpoint).url) as client:
        seen = [client.post(f"/{endpoint}/predict", json={}).headers["x-variant"] for _ in range(200)]
    assert seen.count("v1") == pytest.approx(100, abs=50)


def test_a_restarted_gateway_remembers(own: EmbeddedPlatform, variant: VariantMaker) -> None:
    serve(own, "flights", variant(1), variant(2), route=split(7_000, 3_000))
    users = [f"user-{number}" for number in range(1_000)]
    url, path = own.address("flights").url, "/flights/predict"
    before = variants_of(url, path, users)
    old = program_pid(own, PROGRAM)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: program_pid(own, PROGRAM) not in (0, old), 20, "the supervisor started it again")
    wait_until(own.installation.envoy(own.installation.store.read()).live, 20, "the gateway is back")
    assert variants_of(url, path, users) == before
    assert TOTAL_WEIGHT == 10_000
