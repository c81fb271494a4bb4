"""The register step: a bundle that its gate promotes becomes a version; the end of a run becomes a ledger row."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.components.errors import RegistryError
from headway.components.register import names
from headway.components.register.ledger import Ledger, LedgerRow
from headway.components.register.registry import CHAMPION, Registry
from headway.components.register.store import Version
from headway.components.settings import load_settings

MAX_ERROR = 2_000
"""Characters of a run's error that the ledger keeps."""
_MAX_VERDICT_BYTES = 50_000_000


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What the register step made, or found from an earlier attempt."""

    version: Version
    summary: str
    """Markdown for the run page."""


def register(
    name: str,
    bundle: Path,
    verdict: Path,
    *,
    run_id: str = "",
    actor: str = "pipeline",
    promote_first: bool = True,
    registry: Registry | None = None,
) -> Registered:
    """Register a bundle under the verdict that `evaluate` wrote about it.

    Args:
        name: The model's name.
        bundle: The bundle's folder.
        verdict: The verdict's JSON file.
        run_id: The MLflow run that trained it; a run is made when empty.
        actor: Who registers, for the ledger.
        promote_first: Whether the very first version becomes champion. A champion that exists always stays.
        registry: The registry; the installation's by default.

    Raises:
        RegistryError: The verdict is missing, not `promote`, or about another bundle.
        TrustError: The bundle does not pass the trust gate.
    """
    judged = _read_verdict(verdict)
    registry = registry or Registry()
    version = registry.register(name, bundle, verdict=judged, run_id=run_id, actor=actor, promote_first=promote_first)
    return Registered(version=version, summary=_summary(registry, version))


def record_outcome(
    name: str,
    *,
    state: str,
    pipeline: str,
    error: str | None = None,
    error_code: int | None = None,
    ledger: Ledger | None = None,
) -> LedgerRow:
    """Add a row for the end of a pipeline's run, good or bad.

    Args:
        name: The model's name.
        state: How it ended: `SUCCEEDED`, `FAILED`, `CANCELLED`.
        pipeline: The run's name.
        error: What failed, if the engine says so; it often does not.
        error_code: The engine's code for it.
        ledger: The ledger; the installation's by default.
    """
    ledger = ledger or Ledger(load_settings().resolved_database_url)
    facts = {"state": state, "pipeline": pipeline, "error": (error or "")[:MAX_ERROR], "error_code": error_code}
    body = {key: value for key, value in facts.items() if value not in ("", None, 0)}
    return ledger.append("run", model=names.model_name(name), actor="pipeline", body=body)


def _read_verdict(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RegistryError(f"{path}: no verdict", expected="the JSON file that `evaluate` wrote")
    if path.stat().st_size > _MAX_VERDICT_BYTES:
        raise RegistryError(f"{path}: too large for a verdict", expected=f"at most {_MAX_VERDICT_BYTES:,} bytes")
    try:
        verdict = json.loads(path.read_bytes())
    except ValueError as error:
        raise RegistryError(f"{path}: not JSON: {error}", expected="the JSON file that `evaluate` wrote") from None
    if not isinstance(verdict, dict):
        raise RegistryError(f"{path}: not a verdict", expected="the JSON file that `evaluate` wrote")
    return verdict


def _summary(registry: Registry, version: Version) -> str:
    champion = registry.find_champion(version.name)
    if CHAMPION in version.aliases:
        standing = "It is the **champion**."
    elif champion is None:
        standing = "There is no champion yet: `headway model promote` makes one."
    else:
        standing = f"The champion stays {champion.label}; this one waits as **challenger**."
    return f"**Registered {version.label}.** {standing}\n\n{version.card}\n"
