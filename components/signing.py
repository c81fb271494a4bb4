"""Signatures of bundles: OpenSSF model signing in key mode, so that any of its verifiers can check them too.

    bundle.sig      a Sigstore bundle: a DSSE envelope over an in-toto statement with the digest of every file

The signature is detached: a file in the bundle folder that neither the manifest nor the signature itself covers. Keys
are elliptic-curve keys (P-256, P-384, P-521) in PEM files. Nothing goes over the network.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from headway.components.bundle import DETACHED_SIGNATURE
from headway.components.config import Config
from headway.components.errors import TrustError

_MAX_SIGNATURE_BYTES = 4_000_000
_PEM_START = "-----BEGIN"


class Signer(Config):
    """Somebody whose signature is accepted."""

    document: ClassVar[str] = "signer"

    name: str = Field(min_length=1, max_length=200)
    """Who holds the private key, for messages and the ledger."""
    public_key: str
    """The public key as PEM text, or the path of a PEM file; a relative path starts at the policy's folder."""

    def pem(self, folder: Path) -> bytes:
        """The public key as PEM bytes.

        Args:
            folder: Where a relative path starts.

        Raises:
            TrustError: The file is missing, or it holds no elliptic-curve public key.
        """
        if self.public_key.lstrip().startswith(_PEM_START):
            return _public_pem(self.public_key.encode(), f"signer {self.name!r}")
        path = folder / self.public_key
        if not path.is_file():
            raise TrustError(f"Signer {self.name!r}: {path}: no such file", expected="PEM text, or a PEM file's path")
        return _public_pem(path.read_bytes(), f"signer {self.name!r}: {path}")


def make_key() -> bytes:
    """A new private P-256 key as PEM bytes, not encrypted."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    return bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def public_key(private_key: Path) -> bytes:
    """The public half of a private key file, as PEM bytes.

    Raises:
        TrustError: The file is missing or holds no private key.
    """
    from cryptography.hazmat.primitives import serialization

    if not private_key.is_file():
        raise TrustError(
            f"{private_key}: no such signing key", fix="set HEADWAY_SIGNING_KEY to a PEM file with an EC key"
        )
    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise TrustError(f"{private_key}: not a private key: {error}", expected="an unencrypted PEM file") from None
    return _encode(key.public_key())


def sign_bundle(bundle: Path, private_key: Path) -> Path:
    """Sign every file of a bundle folder and write `bundle.sig` into it.

    Args:
        bundle: The folder.
        private_key: A PEM file with an elliptic-curve private key.

    Returns:
        The signature's path.

    Raises:
        TrustError: The key is missing or of another kind.
    """
    from model_signing import signing

    public_key(private_key)
    path = bundle / DETACHED_SIGNATURE
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key).set_hashing_config(_hashing())
        config.sign(bundle, path)
    except ValueError as error:
        raise TrustError(f"{bundle}: could not be signed with {private_key}: {error}") from None
    return path


def verify_signature(bundle: Path, signers: Sequence[tuple[str, bytes]]) -> str:
    """Check the bundle's signature against the accepted signers.

    Args:
        bundle: The folder, with `bundle.sig` in it.
        signers: Name and public key (PEM) of each accepted signer.

    Returns:
        The name of the signer.

    Raises:
        TrustError: There is no signature, nobody known made it, or it is not over these files.
    """
    path = bundle / DETACHED_SIGNATURE
    if not path.is_file():
        raise TrustError(f"{bundle}: not signed: no {DETACHED_SIGNATURE}", expected="a bundle that `register` signed")
    hint = _key_hint(path)
    known = [(name, pem) for name, pem in signers if hashlib.sha256(pem).hexdigest() == hint]
    if not known:
        raise TrustError(
            f"{bundle}: signed by an unknown key (SHA-256 {hint[:16]}…)",
            expected=f"a signature by {' or '.join(name for name, _ in signers) or 'a signer; the policy names none'}",
            fix="add the signer's public key to the trust policy, if you trust it",
        )
    name, pem = known[0]
    _verify(bundle, path, pem, name)
    return name


def _verify(bundle: Path, signature: Path, pem: bytes, name: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    with tempfile.TemporaryDirectory(prefix="headway-") as folder:
        key = Path(folder) / "public.pem"
        key.write_bytes(pem)
        config = verifying.Config().use_elliptic_key_verifier(public_key=key).set_hashing_config(_hashing())
        try:
            config.verify(bundle, signature)
        except InvalidSignature:
            raise TrustError(f"{bundle}: the signature is not by {name!r}, though it names that key") from None
        # What the library raises on a hostile file is not documented; each of these means that nothing was proved.
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise TrustError(f"{bundle}: the signature by {name!r} does not hold: {error}") from None


def _hashing() -> Any:
    """SHA-256 of each file; only the signature itself stays out, and links are refused."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[DETACHED_SIGNATURE], ignore_git_paths=False)


def _key_hint(signature: Path) -> str:
    """The SHA-256 of the public key that the signature claims; it only chooses which key to try."""
    problem = f"{signature}: not a signature"
    if signature.stat().st_size > _MAX_SIGNATURE_BYTES:
        raise TrustError(problem, expected=f"at most {_MAX_SIGNATURE_BYTES:,} bytes")
    try:
        hint = json.loads(signature.read_bytes())["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TrustError(problem, expected="a Sigstore bundle made with a key") from None
    if not isinstance(hint, str) or not hint:
        raise TrustError(problem, expected="a Sigstore bundle that names its key")
    return hint


def _public_pem(text: bytes, where: str) -> bytes:
    from cryptography.hazmat.primitives import serialization

    try:
        return _encode(serialization.load_pem_public_key(text))
    except (ValueError, TypeError) as error:
        raise TrustError(f"{where}: not a public key: {str(error).splitlines()[0]}", expected="PEM text") from None


def _encode(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise TrustError("The key is not usable for signing bundles", expected="an EC key: P-256, P-384 or P-521")
    return bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def write_once(path: Path, content: bytes, *, mode: int) -> bytes:
    """Write a file that nobody may write twice, and return what it holds: ours, or that of whoever was first.

    The file appears whole or not at all: it is written beside its place, then linked into it, and a link fails when the
    name is taken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()
    return path.read_bytes()
