"""Bundles on this machine: fetched once from the registry, and through the trust gate before anything starts."""

from pathlib import Path

from headway.components.errors import TrustError
from headway.components.settings import Settings
from headway.serving.platform import Variant


def fetch(settings: Settings, folder: Path, variant: Variant) -> Path:
    """The variant's bundle in its folder; one that is there already is checked again.

    Args:
        settings: Where the registry and the trust policy are.
        folder: Where it lies, or shall lie; named by the digest.
        variant: Which one.

    Raises:
        UnknownNameError: The registry has no such version.
        RegistryError: Its files are gone.
        TrustError: It must not be served; says why.
    """
    if folder.is_dir():
        _check(settings, folder, variant)
        return folder
    from headway.components.register.registry import Registry

    registry = Registry(settings)
    version = registry.version(variant.model, variant.version)
    if version.digest != variant.digest:
        raise TrustError(
            f"{version.label} has the digest {version.digest[:16]}…",
            expected=f"{variant.digest[:16]}…, which variant {variant.name} names",
        )
    try:
        registry.download(version, folder)
    except OSError:
        # Another process fetched it meanwhile: a folder is moved into place whole.
        if not folder.is_dir():
            raise
        _check(settings, folder, variant)
    return folder


def _check(settings: Settings, folder: Path, variant: Variant) -> None:
    from headway.components.trust import check_bundle, load_policy

    with check_bundle(folder, policy=load_policy(settings), digest=variant.digest):
        pass
