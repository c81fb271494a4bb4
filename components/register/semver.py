"""The next semantic version of a model: what a change means to those who call it.

major   callers break: an input they do not send, an output they read, the target, the classes, the contract
minor   callers go on: another estimator or parameters, a compatible contract
patch   the same specification, trained on other data
"""

from dataclasses import dataclass
from typing import Self

from headway.components.bundle import BundleInfo, Signature
from headway.components.data_validate.contract import ColumnType, Contract
from headway.components.errors import RefusedNameError
from headway.components.register.names import SEMANTIC_VERSION


@dataclass(frozen=True, order=True)
class SemVer:
    """A semantic version (semver.org 2.0.0) without pre-release parts."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `1.2.0`.

        Raises:
            RefusedNameError: It is not three numbers with dots between.

        Example:
            >>> SemVer.parse("1.2.0") < SemVer.parse("1.10.0")
            True
        """
        if not SEMANTIC_VERSION.fullmatch(text):
            raise RefusedNameError(f"Refused semantic version {text!r}", expected="MAJOR.MINOR.PATCH, such as `1.2.0`")
        return cls(*(int(part) for part in text.split(".")))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


FIRST = SemVer(1, 0, 0)
_WIDENED = (ColumnType.INTEGER, ColumnType.NUMBER)
"""An input that took integers and now takes any number refuses nobody."""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What callers of a model version see, and how it was specified."""

    info: BundleInfo
    contract: Contract
    signature: Signature


def next_version(last: tuple[SemVer, Interface] | None, new: Interface) -> tuple[SemVer, list[str]]:
    """The version that follows the last one, and why.

    Args:
        last: The newest registered version with its interface; None before the first.
        new: The interface of the bundle to register.

    Returns:
        The next version, and the changes that decided it: never empty.
    """
    if last is None:
        return FIRST, ["first version"]
    version, old = last
    if breaking := breaking_changes(old, new):
        return SemVer(version.major + 1, 0, 0), breaking
    if compatible := _compatible_changes(old, new):
        return SemVer(version.major, version.minor + 1, 0), compatible
    return SemVer(version.major, version.minor, version.patch + 1), ["same specification, other data"]


def breaking_changes(old: Interface, new: Interface) -> list[str]:
    """What breaks those who call the old version, a sentence each."""
    from headway.components.data_validate.diff import diff

    found = [
        f"{what} changed from {was!r} to {now!r}"
        for what, was, now in (
            ("task", old.info.task, new.info.task),
            ("target", old.info.target, new.info.target),
            ("classes", old.info.classes, new.info.classes),
        )
        if was != now
    ]
    found += _breaking_inputs(old.signature, new.signature)
    found += _breaking_outputs(old.signature, new.signature)
    changes = diff(old.contract, new.contract)
    found += [f"contract: {change.where}: {change.sentence}" for change in changes if change.breaking]
    return list(dict.fromkeys(found))


def _breaking_inputs(old: Signature, new: Signature) -> list[str]:
    before = {port.name: port for port in old.inputs}
    after = {port.name: port for port in new.inputs}
    # A request with a field that the contract does not know is refused, so a removed input breaks callers too.
    found = [f"input {name!r} was removed" for name in before if name not in after]
    for name, port in after.items():
        if name not in before:
            found += [f"input {name!r} was added and is required"] if port.required else []
        elif port.type != before[name].type and (before[name].type, port.type) != _WIDENED:
            found.append(f"input {name!r} changed from {before[name].type} to {port.type}")
        elif port.required and not before[name].required:
            found.append(f"input {name!r} became required")
    return found


def _breaking_outputs(old: Signature, new: Signature) -> list[str]:
    after = {port.name: port for port in new.outputs}
    found = [f"output {port.name!r} was removed" for port in old.outputs if port.name not in after]
    found += [
        f"output {port.name!r} changed from {port.type} to {after[port.name].type}"
        for port in old.outputs
        if port.name in after and after[port.name].type != port.type
    ]
    return found


def _compatible_changes(old: Interface, new: Interface) -> list[str]:
    pairs = (
        ("contract", old.contract.digest(), new.contract.digest()),
        ("signature", old.signature, new.signature),
        ("estimator", old.info.estimator, new.info.estimator),
        ("parameters", old.info.parameters, new.info.parameters),
    )
    return [f"{what} changed" for what, was, now in pairs if was != now]
