"""Imports that need care: kserve, which reads the command line, and torch, which nobody here asked for."""

import contextlib
import importlib.abc
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextlib.contextmanager
def kserve_imports() -> Iterator[None]:
    """Hide the process's command line, which is ours, from the parser that kserve runs while it is imported."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments


@contextlib.contextmanager
def hidden(package: str) -> Iterator[None]:
    """Let imports of a package fail as if it were not installed.

    skops imports all of scikit-learn to list the types it trusts, and with it torch, where that is installed: seconds
    of start-up and hundreds of megabytes for a package that no bundle's model uses.
    """
    finder = _Refusing(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Refusing(importlib.abc.MetaPathFinder):
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None
