"""The cache of the embedded engine: keyed on what a step reads, not on where it lies or when it ran.

kfp.local keys a step on the paths of its inputs, so nothing behind a step that ran again is ever found. Here a key is
made of the component's code, the package's code and versions, the parameters, and the *content* digests of the input
artifacts. A step whose outcome depends on something outside its arguments names it as `outside` (the data behind a
source's address, the champion in the registry) or is never cached.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache as memoize
from importlib import metadata
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.local.cache import LocalCache

_LIBRARIES = ("duckdb", "mlflow", "numpy", "onnxruntime", "pandas", "pyarrow", "scikit-learn", "skl2onnx", "skops")
_EXECUTOR_PLACEHOLDER = "{{$}}"


@dataclass
class Lookup:
    """What the cache found for one step."""

    component: str
    hit: bool
    reason: str
    """Why: `unchanged since …`, or what changed."""


class ContentCache(LocalCache):  # type: ignore[misc]
    """Outputs of earlier runs by the content of what they were made from.

    Args:
        root: Folder of the entries.
        run: Name of this run, told to those that find its results later.
        outside: For a component by name, what tells the state of all that it reads beside its arguments.
    """

    def __init__(self, root: Path, *, run: str, outside: Mapping[str, Callable[[], str]] | None = None) -> None:
        super().__init__(str(root))
        self._run = run
        self._outside = dict(outside or {})
        self._parts: dict[str, tuple[str, dict[str, str]]] = {}
        self.lookups: list[Lookup] = []
        self.on_hit: Callable[[str, dict[str, Any], str], None] = lambda name, outputs, reason: None
        """Told of each step that was found: its name, its outputs and why."""

    def compute_key(
        self,
        component_name: str,
        image: str,
        full_command: list[str],
        arguments: dict[str, Any],
        env_vars: dict[str, str] | None = None,
        custom_cache_key: str | None = None,
    ) -> str:
        """One digest of all that the step reads; the image does not count, since steps run in this environment."""
        component = component_name.removeprefix("comp-")
        parts = {name: _digest_of(value) for name, value in arguments.items()}
        parts["the step's own code"] = _sha256([part for part in full_command if part != _EXECUTOR_PLACEHOLDER])
        parts["Headway's code or a library's version"] = _installation_digest()
        parts["environment variables"] = _sha256(env_vars or {})
        parts["the data or the champion"] = self._outside[component]() if component in self._outside else ""
        key = _sha256([component, custom_cache_key or parts])
        self._parts[key] = (component, parts)
        return key

    def get(self, key: str) -> dict[str, Any] | None:
        """The outputs under the key, when their files are still what the step wrote."""
        component, parts = self._parts[key]
        entry = self._read(f"{key}.entry")
        outputs = super().get(key) if entry and _stamps(entry["stamps"]) == entry["stamps"] else None
        if outputs is not None and entry is not None:
            reason = f"unchanged since {entry['run']}"
        else:
            reason = "its earlier result was changed or removed" if entry else self._why_not(component, parts)
        self.lookups.append(Lookup(component, outputs is not None, reason))
        if outputs is not None:
            self.on_hit(component, outputs, reason)
        return outputs

    def put(self, key: str, outputs: dict[str, Any]) -> None:
        """Remember outputs, with the sizes and times of their files."""
        component, parts = self._parts[key]
        paths = [value.path for value in outputs.values() if isinstance(value, dsl.Artifact)]
        for path in paths:
            # Metrics live in metadata and often have no file; kfp's cache takes a missing one for a lost result.
            if not Path(path).exists():
                Path(path).touch()
        super().put(key, outputs)
        self._write(f"{key}.entry", {"run": self._run, "stamps": _stamps(paths)})
        self._write(f"latest-{component}", {"run": self._run, "parts": parts})

    def reason_for(self, component: str) -> Lookup | None:
        """The last look-up for a component in this run."""
        return next((found for found in reversed(self.lookups) if found.component == component), None)

    def _why_not(self, component: str, parts: dict[str, str]) -> str:
        latest = self._read(f"latest-{component}")
        if not latest:
            return "first run"
        before = latest["parts"]
        changed = sorted(name for name in parts.keys() | before.keys() if parts.get(name) != before.get(name))
        return f"changed: {', '.join(changed)}"

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((Path(self.cache_root) / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):  # never written, or cut off by a kill: the same as not there
            return None
        return found if isinstance(found, dict) else None

    def _write(self, name: str, data: dict[str, Any]) -> None:
        path = Path(self.cache_root) / f"{name}.json"
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(data), encoding="utf-8")
        scratch.replace(path)


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's names and files.

    Args:
        path: A file or a folder; one that is absent has a digest of its own.
    """
    from headway.components.bundle import sha256_file

    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if found.is_file())
        return _sha256([(found.relative_to(path).as_posix(), sha256_file(found)) for found in files])
    return sha256_file(path) if path.is_file() else "absent"


def _digest_of(value: Any) -> str:
    if isinstance(value, dsl.Artifact):
        digest = value.metadata.get("digest") or content_digest(Path(value.path))
        return _sha256([type(value).__name__, digest])
    if isinstance(value, list):
        return _sha256([_digest_of(item) for item in value])
    return _sha256(value)


def _stamps(paths: Any) -> dict[str, list[int]]:
    """Size and time of each file, or of each file in each folder; -1 for one that is absent."""
    found: dict[str, list[int]] = {}
    for name in paths:
        path = Path(name)
        inside = [inner for inner in path.rglob("*") if inner.is_file()] if path.is_dir() else [path]
        stats = [inner.stat() for inner in inside if inner.exists()]
        found[str(name)] = [len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=-1)]
    return found


@memoize
def _installation_digest() -> str:
    """A digest of Headway's own source and of the versions of the libraries that decide a result."""
    import headway.components

    root = Path(headway.components.__path__[0])
    sources = sorted(
        path for path in root.rglob("*") if path.suffix in (".py", ".j2") and "__pycache__" not in path.parts
    )
    versions = {name: _version(name) for name in _LIBRARIES}
    return _sha256([[(path.relative_to(root).as_posix(), content_digest(path)) for path in sources], versions])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
