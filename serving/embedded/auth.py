"""Who may call the gateway: `<home>/serving/auth.yaml`. Without the file everybody on this machine may.

    jwt:
      issuer: https://login.example.com/
      audiences: [headway]
      jwks: jwks.json            # beside this file
      scope: headway.predict     # optional: what a token must carry

or

    api_keys:
      - {client: web-shop, key: 6b0c…}

401 says that nobody knows who is calling, 403 that the caller is known and may not do this.

A request may name the variant that shall answer it (`x-variant`): with authentication on, only a token with
`variant_scope`, or a key with `variants: true`, may do so. Whoever could would step out of an experiment's assignment,
and reach versions that are still being checked. The platform's own checks show a key of this installation instead.
"""

import json
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from headway.components.config import Config
from headway.components.errors import ConfigError
from headway.serving.embedded.xds import HTTP_FILTERS, Document, header_is, status_is
from headway.serving.platform import USER_HEADER, VARIANT_HEADER, Name

API_KEY_HEADER = "x-api-key"
PLATFORM_KEY_HEADER = "x-headway-key"
CLIENT_HEADER = "x-client-id"
_PLATFORM_CLIENT = "headway-platform"
_OPEN_TO_OTHERS = 0o077
_JWT_FILTER = "envoy.filters.http.jwt_authn"
_CLAIMS = "claims"
AuthKind = Literal["off", "jwt", "api_keys"]


class JwtConfig(Config):
    """Tokens of one issuer."""

    document: ClassVar[str] = "jwt section"

    issuer: str = Field(min_length=1)
    """The claim `iss`, exactly."""
    audiences: list[str] = Field(min_length=1)
    """The claim `aud` must hold one of them; another gets 403."""
    jwks: Path
    """The issuer's public keys, a JSON Web Key Set; relative to this file. `headway up` reads it."""
    user_claim: str = Field(default="sub", pattern=r"^[A-Za-z0-9_.-]+$")
    """Becomes `x-user-id`, which decides the variant; what the client sends by that name is dropped."""
    scope: str = ""
    """What the claim `scope` must hold; empty asks for none."""


class ApiKey(Config):
    """One calling application."""

    document: ClassVar[str] = "API key"

    client: Name
    key: SecretStr = Field(min_length=16)
    """Sent as `x-api-key`. Envoy compares it as it is, so it cannot be kept as a hash: hence the file's mode."""
    variants: bool = False
    """Whether it may name the variant that shall answer."""


class AuthConfig(Config):
    """Tokens or API keys; with neither, everybody on this machine may call."""

    document: ClassVar[str] = "auth file"

    jwt: JwtConfig | None = None
    api_keys: list[ApiKey] = []
    """Envoy 1.40 calls its filter for these work in progress, not covered by its threat model: prefer tokens. The
    caller's own `x-user-id` is believed, for an application knows its users."""
    variant_scope: str = Field(default="headway.variants", min_length=1)
    """What the claim `scope` must hold to name a variant."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.jwt and self.api_keys:
            raise ValueError("`jwt` and `api_keys` exclude each other")
        clients = [key.client for key in self.api_keys]
        if len(set(clients)) != len(clients) or _PLATFORM_CLIENT in clients:
            raise ValueError(f"each client stands once, and none is called {_PLATFORM_CLIENT}")
        secrets = [key.key.get_secret_value() for key in self.api_keys]
        if len(set(secrets)) != len(secrets):
            raise ValueError("two clients share one key")
        return self

    @property
    def kind(self) -> AuthKind:
        """How callers say who they are."""
        return "jwt" if self.jwt else "api_keys" if self.api_keys else "off"


def load_auth(path: Path) -> AuthConfig:
    """Read the file, if there is one.

    Raises:
        ConfigError: It is wrong, its key set cannot be read, or others may read its keys.
    """
    if not path.exists():
        return AuthConfig()
    auth = AuthConfig.load(path)
    if auth.api_keys and path.stat().st_mode & _OPEN_TO_OTHERS:
        raise ConfigError(f"{path}: others may read the API keys in it", expected="mode 0600", fix=f"chmod 600 {path}")
    if auth.jwt is None:
        return auth
    jwks = path.parent / auth.jwt.jwks
    _check_key_set(jwks)
    return auth.model_copy(update={"jwt": auth.jwt.model_copy(update={"jwks": jwks})})


def platform_headers(kind: AuthKind, key: str) -> dict[str, str]:
    """What the platform's own requests show at the gateway."""
    match kind:
        case "jwt":
            return {PLATFORM_KEY_HEADER: key}
        case "api_keys":
            return {API_KEY_HEADER: key}
        case _:
            return {}


def auth_filters(auth: AuthConfig, key: str) -> list[Document]:
    """Envoy's filters for a configuration, in their order.

    Args:
        auth: Who may call.
        key: What the platform's own checks show.
    """
    if auth.jwt is not None:
        return [_jwt_filter(auth.jwt, key), _rbac(_jwt_policies(auth.jwt, auth.variant_scope, key))]
    if auth.api_keys:
        return [_api_key_filter(auth.api_keys, key), _rbac(_client_policies(auth.api_keys))]
    return []


def forbidden_reply(auth: AuthConfig) -> list[Document]:
    """What a known caller reads who may not do this: mappers of Envoy's local replies."""
    if auth.jwt is None:
        return []
    needed = " and ".join(filter(None, [auth.jwt.scope, f"{auth.variant_scope} (to name a variant)"]))
    matcher = {
        "filter": _JWT_FILTER,
        "path": [{"key": _CLAIMS}, {"key": "iss"}],
        "value": {"present_match": True},
    }
    known = {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}
    text = f"the token's scope does not allow this; needed: {needed}"
    return [
        {
            "filter": {"and_filter": {"filters": [status_is(403), known]}},
            "body_format_override": {"json_format": {"error": text}, "content_type": "application/json"},
        }
    ]


def _check_key_set(path: Path) -> None:
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))["keys"]
        known = [key["kty"] for key in keys]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", expected="a JSON Web Key Set") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: not a JSON Web Key Set", expected='{"keys": [{"kty": …}, …]}') from None
    if not known or "oct" in known:
        raise ConfigError(f"{path}: holds {known or 'no key'}", expected="one public key or more, no shared secret")


def _jwt_filter(jwt: JwtConfig, key: str) -> Document:
    provider = {
        "issuer": jwt.issuer,
        "audiences": jwt.audiences,
        "local_jwks": {"inline_string": jwt.jwks.read_text(encoding="utf-8")},
        "claim_to_headers": [{"header_name": USER_HEADER, "claim_name": jwt.user_claim}],
        "payload_in_metadata": _CLAIMS,
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope"]},
        # The variant follows the user: the route is chosen again once the token said who it is.
        "clear_route_cache": True,
        "require_expiration": True,
    }
    ours = {"prefix": "/", "headers": [header_is(PLATFORM_KEY_HEADER, key)]}
    return {
        "name": _JWT_FILTER,
        "typed_config": {
            "@type": f"{HTTP_FILTERS}.jwt_authn.v3.JwtAuthentication",
            "providers": {"issuer": provider},
            "rules": [{"match": ours}, {"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
        },
    }


def _api_key_filter(keys: list[ApiKey], key: str) -> Document:
    credentials = [{"key": each.key.get_secret_value(), "client": each.client} for each in keys]
    return {
        "name": "envoy.filters.http.api_key_auth",
        "typed_config": {
            "@type": f"{HTTP_FILTERS}.api_key_auth.v3.ApiKeyAuth",
            "credentials": [*credentials, {"key": key, "client": _PLATFORM_CLIENT}],
            "key_sources": [{"header": API_KEY_HEADER}],
            "forwarding": {"header": CLIENT_HEADER, "hide_credentials": True},
        },
    }


def _jwt_policies(jwt: JwtConfig, variant_scope: str, key: str) -> Document:
    caller = _has_scope(jwt.scope) if jwt.scope else {"any": True}
    chooser = {"and_ids": {"ids": [caller, _has_scope(variant_scope)]}}
    return {
        "platform": {"permissions": [{"any": True}], "principals": [{"header": header_is(PLATFORM_KEY_HEADER, key)}]},
        "callers": {"permissions": [_no_variant_named()], "principals": [caller]},
        "choosers": {"permissions": [{"any": True}], "principals": [chooser]},
    }


def _client_policies(keys: list[ApiKey]) -> Document:
    choosers = [_PLATFORM_CLIENT, *(key.client for key in keys if key.variants)]
    named = [{"header": header_is(CLIENT_HEADER, client)} for client in choosers]
    return {
        "callers": {"permissions": [_no_variant_named()], "principals": [{"any": True}]},
        "choosers": {"permissions": [{"any": True}], "principals": named},
    }


def _rbac(policies: Document) -> Document:
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {"@type": f"{HTTP_FILTERS}.rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": policies}},
    }


def _no_variant_named() -> Document:
    return {"not_rule": {"header": {"name": VARIANT_HEADER, "present_match": True}}}


def _has_scope(scope: str) -> Document:
    value = {"list_match": {"one_of": {"string_match": {"exact": scope}}}}
    return {"metadata": {"filter": _JWT_FILTER, "path": [{"key": _CLAIMS}, {"key": "scope"}], "value": value}}
