"""Who may call: 401 for nobody we know, 403 for somebody who may not, and who is known as which user."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from headway.components.errors import ConfigError
from headway.serving.embedded.auth import AuthConfig, load_auth
from headway.serving.embedded.lifecycle import up
from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.embedded.state import write_atomically
from headway.serving.experiment.assignment import assign
from tests.serving.embedded.conftest import Bundles, PlatformMaker, make_variant, serve, split, take_down

ISSUER = "https://login.example.com/"
KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())
ROUTE = split(5_000, 5_000)


def key_set() -> str:
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    return json.dumps({"keys": [{**public, "kid": "k1", "alg": "ES256", "use": "sig"}]})


def token(key: Any = KEY, **claims: Any) -> str:
    """A good token, with these claims changed; None leaves one out."""
    usual = {
        "iss": ISSUER,
        "aud": "headway",
        "sub": "ada",
        "exp": int(time.time()) + 86_400,  # made when tests are collected, shown when their turn comes
        "scope": "openid headway.predict",
    }
    document = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return jwt.encode(document, key, algorithm="ES256", headers={"kid": "k1"})


def bearer(*args: Any, **claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {token(*args, **claims)}"}


def write_auth(platform: EmbeddedPlatform, text: str) -> Path:
    path = platform.installation.layout.root / "auth.yaml"
    write_atomically(path, text)
    return path


@pytest.fixture(scope="module")
def guarded(
    make_platform: PlatformMaker, bundles: Bundles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedPlatform]:
    """An installation that asks for tokens."""
    platform = make_platform(tmp_path_factory.mktemp("guarded") / "home")
    up(platform)
    serve(platform, "flights", make_variant(bundles, 1), make_variant(bundles, 2), route=ROUTE)
    write_atomically(platform.installation.layout.root / "jwks.json", key_set())
    write_auth(
        platform,
        f"jwt: {{issuer: '{ISSUER}', audiences: [headway], jwks: jwks.json, scope: headway.predict}}\n",
    )
    assert "changed gateway" in up(platform).changes
    yield platform
    take_down(platform)


TRUST = httpx.create_ssl_context()
"""Made once: httpx takes 50 ms for it, at each call by default."""


def ask(platform: EmbeddedPlatform, headers: dict[str, str], path: str = "/flights/predict") -> httpx.Response:
    return httpx.post(f"{platform.address('flights').url}{path}", json={}, headers=headers, verify=TRUST)


class TestTokens:
    @pytest.mark.parametrize(
        ("headers", "status", "error"),
        [
            ({}, 401, "Jwt is missing"),
            ({"authorization": "Bearer nonsense"}, 401, "Jwt is not in the form"),
            (bearer(exp=1_700_000_000), 401, "Jwt is expired"),
            (bearer(exp=None), 401, "Jwt"),
            (bearer(iss="https://other.example.com/"), 401, "Jwt issuer is not configured"),
            (bearer(STRANGER), 401, "Jwt verification fails"),
            (bearer(aud="others"), 403, "Audiences in Jwt are not allowed"),
            (bearer(scope="openid"), 403, "the token's scope does not allow this; needed: headway.predict"),
            (bearer(scope=None), 403, "the token's scope does not allow this"),
            (bearer(scope="headway.predictor"), 403, "the token's scope does not allow this"),
            (bearer(), 200, ""),
            (bearer(aud=["others", "headway"]), 200, ""),
        ],
    )
    def test_each_case(self, guarded: EmbeddedPlatform, headers: dict[str, str], status: int, error: str) -> None:
        answer = ask(guarded, headers)
        assert answer.status_code == status
        if status != 200:
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["error"].startswith(error)

    def test_every_path_is_guarded(self, guarded: EmbeddedPlatform) -> None:
        for path in ("/v2/models/flights/infer", "/v1/models/flights:predict", "/v2", "/v2/health/ready", "/nope"):
            assert ask(guarded, {}, path).status_code == 401

    def test_the_token_says_who_the_user_is(self, guarded: EmbeddedPlatform) -> None:
        for number in range(60):
            user = f"user-{number}"
            for headers in ({}, {"x-user-id": "somebody-else"}):
                answer = ask(guarded, {**headers, **bearer(sub=user)})
                assert answer.headers["x-variant"] == assign(ROUTE, user)

    def test_without_a_subject_the_client_does_not_choose_one(self, guarded: EmbeddedPlatform) -> None:
        headers = {"x-user-id": "somebody-else", **bearer(sub=None)}
        assert {ask(guarded, headers).headers["x-variant"] for _ in range(40)} == {"v1", "v2"}

    def test_the_server_sees_the_user_and_no_secret(self, guarded: EmbeddedPlatform) -> None:
        ask(guarded, {**bearer(scope="headway.predict headway.variants", sub="grace"), "x-variant": "v1"})
        served = guarded.installation.store.read().endpoint("flights").served("v1")
        assert served is not None
        seen = httpx.get(f"http://127.0.0.1:{served.ports[0]}/seen").json()[-1]
        assert seen["x-user-id"] == "grace"
        assert "authorization" not in seen

    @pytest.mark.parametrize(
        ("scope", "status"),
        [("headway.predict", 403), ("headway.predict headway.variants", 200), ("headway.variants", 403)],
    )
    def test_naming_a_variant_takes_a_scope(self, guarded: EmbeddedPlatform, scope: str, status: int) -> None:
        answer = ask(guarded, {**bearer(scope=scope), "x-variant": "v2"})
        assert answer.status_code == status
        if status == 403:
            assert "headway.variants (to name a variant)" in answer.json()["error"]

    def test_the_platform_itself_gets_through(self, guarded: EmbeddedPlatform) -> None:
        address = guarded.address("flights", "v2")
        answer = ask(guarded, address.headers)
        assert answer.json()["variant"] == "v2"
        served = guarded.installation.store.read().endpoint("flights").served("v2")
        assert served is not None
        seen = httpx.get(f"http://127.0.0.1:{served.ports[0]}/seen").json()[-1]
        assert "x-headway-key" not in seen

    def test_a_guessed_platform_key_does_not(self, guarded: EmbeddedPlatform) -> None:
        assert ask(guarded, {"x-headway-key": "0" * 64, "x-variant": "v2"}).status_code == 401
        assert ask(guarded, {"x-headway-key": "0" * 64, "x-variant": "v2", **bearer()}).status_code == 403

    def test_secrets_are_private(self, guarded: EmbeddedPlatform) -> None:
        root = guarded.installation.layout.root
        assert root.stat().st_mode & 0o077 == 0
        assert (root / "key").stat().st_mode & 0o077 == 0


class TestApiKeys:
    def test_each_case(self, own: EmbeddedPlatform, bundles: Bundles) -> None:
        serve(own, "flights", make_variant(bundles, 1), make_variant(bundles, 2), route=ROUTE)
        write_auth(
            own,
            "api_keys:\n- {client: web-shop, key: 0123456789abcdef0}\n"
            "- {client: lab, key: fedcba9876543210f, variants: true}\n",
        )
        up(own)
        shop, lab = {"x-api-key": "0123456789abcdef0"}, {"x-api-key": "fedcba9876543210f"}
        assert ask(own, {}).status_code == 401
        assert ask(own, {"x-api-key": "0123456789abcdef1"}).status_code == 401
        assert "error" in ask(own, {}).json()
        for user in ("ada", "grace", "edsger"):  # the application knows its users
            assert ask(own, {**shop, "x-user-id": user}).headers["x-variant"] == assign(ROUTE, user)
        assert ask(own, {**shop, "x-variant": "v2"}).status_code == 403
        assert ask(own, {**shop, "x-variant": "v2", "x-client-id": "lab"}).status_code == 403
        assert ask(own, {**lab, "x-variant": "v2"}).json()["variant"] == "v2"
        assert ask(own, own.address("flights", "v2").headers).json()["variant"] == "v2"
        served = own.installation.store.read().endpoint("flights").served("v2")
        assert served is not None
        seen = httpx.get(f"http://127.0.0.1:{served.ports[0]}/seen").json()
        assert all("x-api-key" not in headers for headers in seen)

    def test_switching_it_off_again_opens_the_gateway(self, own: EmbeddedPlatform, bundles: Bundles) -> None:
        serve(own, "flights", make_variant(bundles, 1), route=split(10_000))
        path = write_auth(own, "api_keys: [{client: web-shop, key: 0123456789abcdef0}]\n")
        up(own)
        assert ask(own, {}).status_code == 401
        path.unlink()
        up(own)
        assert ask(own, {}).status_code == 200


class TestTheFile:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "jwt: {issuer: x, audiences: [a], jwks: k.json}\napi_keys: [{client: a, key: 0123456789abcdef}]",
                "exclude",
            ),
            ("api_keys: [{client: a, key: short}]", "at least 16"),
            ("api_keys: [{client: a, key: 0123456789abcdef}, {client: b, key: 0123456789abcdef}]", "share one key"),
            ("api_keys: [{client: a, key: 0123456789abcdef}, {client: a, key: 1123456789abcdef}]", "stands once"),
            ("jwt: {issuer: x, audiences: [], jwks: k.json}", "audiences"),
            ("jwt: {issuer: x, audience: [a], jwks: k.json}", "audience"),
        ],
    )
    def test_nonsense_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            AuthConfig.parse(text)

    def test_no_file_means_open(self, tmp_path: Path) -> None:
        assert load_auth(tmp_path / "auth.yaml").kind == "off"

    def test_keys_that_others_may_read_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "auth.yaml"
        path.write_text("api_keys: [{client: a, key: 0123456789abcdef}]")
        path.chmod(0o644)
        with pytest.raises(ConfigError, match=r"others may read[\s\S]*chmod 600"):
            load_auth(path)
        path.chmod(0o600)
        assert load_auth(path).kind == "api_keys"

    @pytest.mark.parametrize(
        ("jwks", "message"),
        [
            (None, "cannot be read"),
            ("{", "not a JSON Web Key Set"),
            ('{"keys": []}', "no key"),
            ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "no shared secret"),
        ],
    )
    def test_a_bad_key_set_is_refused_before_anything_changes(
        self, tmp_path: Path, jwks: str | None, message: str
    ) -> None:
        if jwks is not None:
            (tmp_path / "jwks.json").write_text(jwks)
        path = tmp_path / "auth.yaml"
        path.write_text(f"jwt: {{issuer: '{ISSUER}', audiences: [a], jwks: jwks.json}}")
        with pytest.raises(ConfigError, match=message):
            load_auth(path)

    def test_an_edited_file_waits_for_up(self, own: EmbeddedPlatform, bundles: Bundles) -> None:
        """A broken file must not stand in the way of a rollback."""
        make: Callable[[int], Any] = lambda version: make_variant(bundles, version)  # noqa: E731
        serve(own, "flights", make(1), make(2), route=split(0, 10_000))
        write_auth(own, "jwt: nonsense")
        own.set_route("flights", split(10_000, 0))
        assert ask(own, {}).headers["x-variant"] == "v1"
        with pytest.raises(ConfigError, match="jwt"):
            up(own)
        assert ask(own, {}).status_code == 200
