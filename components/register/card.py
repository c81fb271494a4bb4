"""The model card of a version: Markdown, for the registry's page and the run's page.

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019), as far as a machine knows the answers.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from headway.components.errors import RegistryError
from headway.components.register.semver import Interface

_MAX_CARD = 4_000
_MAX_INPUTS = 50


def model_card(
    name: str,
    semver: str,
    interface: Interface,
    *,
    changes: Sequence[str],
    digest: str,
    run_id: str,
    verdict: Mapping[str, Any],
) -> str:
    """The card of one version.

    Args:
        name: The model's name.
        semver: Its semantic version.
        interface: What its callers see.
        changes: What decided the semantic version.
        digest: The bundle's digest.
        run_id: The MLflow run that trained it.
        verdict: What the gate decided, with its reasons as texts.
    """
    info, contract = interface.info, interface.contract
    facts = {
        "Task": f"{info.task}, target `{info.target}`",
        "Classes": ", ".join(f"`{label}`" for label in info.classes),
        "Estimator": f"`{info.estimator}`",
        "Parameters": f"`{json.dumps(info.parameters, sort_keys=True, default=str)}`" if info.parameters else "",
        "Formats": ", ".join(info.formats),
        "Gate": "; ".join([str(verdict["decision"]), *verdict.get("reasons", ())]),
        "Changes": "; ".join(changes),
        "Contract": f"{contract.name} (`{info.lineage.contract_digest[:16]}`)",
        "Training data": f"`{info.lineage.data_digest[:16]}`",
        "Code": f"`{info.lineage.code_revision}`" if info.lineage.code_revision else "",
        "Run": f"`{run_id}`",
        "Bundle": f"`{digest[:16]}`",
    }
    lines = [f"# {name} {semver}", "", contract.description, "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value]
    lines += ["", "## Inputs", "", *_inputs(interface)]
    return "\n".join(lines)[:_MAX_CARD]


def require_metadata(name: str, interface: Interface) -> None:
    """Refuse a bundle of another model, or one that does not say where it came from.

    Raises:
        RegistryError: A required fact is missing or wrong; all of them are named.
    """
    info = interface.info
    problems = {
        f"its name is {info.name!r}": info.name != name,
        "no digest of the training data": not info.lineage.data_digest,
        "no digest of the contract": not info.lineage.contract_digest,
        "the contract is not the one that it names": bool(info.lineage.contract_digest)
        and info.lineage.contract_digest != interface.contract.digest(),
        "a classifier without classes": info.task != "regression" and not info.classes,
    }
    if found := [problem for problem, holds in problems.items() if holds]:
        raise RegistryError(
            f"Model {name!r}: the bundle cannot be registered: {'; '.join(found)}",
            expected="name, task, target, classes, and the digests of data and contract",
            fix="train it again with `headway`",
        )


def _inputs(interface: Interface) -> list[str]:
    ports = interface.signature.inputs
    columns = interface.contract.columns
    rows = []
    for port in ports[:_MAX_INPUTS]:
        column = columns.get(port.name)
        unit = f", {column.unit}" if column and column.unit else ""
        rows.append(f"- `{port.name}`: {port.type}{unit}{'' if port.required else ', may be missing'}")
    return rows + ([f"- … and {len(ports) - _MAX_INPUTS} more"] if len(ports) > _MAX_INPUTS else [])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
