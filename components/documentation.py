"""Each component's README, made from signature and docstring: `python -m headway.components.documentation [--check]`.

A page that people write by hand goes stale at the first change; this one cannot, since `make check` compares it.
"""

import importlib
import inspect
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

import headway.components as catalogue

_ROOT = Path(__file__).parent
_SECTIONS = {
    "ingest": ("ingest.sources.Source", "ingest.split.Split", "ingest.leakage.LeakageSettings"),
    "data_validate": ("data_validate.contract.Contract", "data_validate.contract.Column"),
    "tune": (
        "tune.spec.TuningSpec",
        "tune.space.Float",
        "tune.space.Int",
        "tune.space.Categorical",
        "tune.spec.Folds",
    ),
    "train": ("train.estimators.TrainSpec",),
    "train_distributed": (
        "train_distributed.spec.DistributedSpec",
        "train_distributed.spec.Placement",
        "train_distributed.spec.CheckpointSpec",
    ),
    "optimise": ("optimise.spec.OptimiseSpec",),
    "evaluate": (
        "evaluate.gate.EvaluationSpec",
        "evaluate.gate.Threshold",
        "evaluate.slices.Slice",
        "evaluate.gate.ChampionRule",
        "evaluate.bootstrap.Bootstrap",
    ),
    "register": ("trust.Policy", "trust.Signer"),
}
"""The documents that people write for a component, shown with their keys."""
_NOTICE = "<!-- Made by `make docs` from the component's signature and docstring. -->"


def readmes() -> dict[Path, str]:
    """Every component folder's README as it should be, by path."""
    folders: dict[Path, list[Any]] = {}
    for name, module in catalogue.CATALOGUE.items():
        folders.setdefault(_ROOT / module.split(".")[2], []).append(catalogue.load(name))
    return {folder / "README.md": _readme(folder.name, components) for folder, components in folders.items()}


def stale() -> list[Path]:
    """The READMEs that do not say what the code says."""
    return [path for path, text in readmes().items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def _readme(folder: str, components: list[Any]) -> str:
    package = inspect.getdoc(sys.modules[f"headway.components.{folder}"]) or ""
    parts = [f"# {folder}", _NOTICE, package]
    parts += [_component(component) for component in components]
    parts += [_section(path) for path in _SECTIONS.get(folder, ())]
    return "\n\n".join(parts) + "\n"


def _component(component: Any) -> str:
    spec = component.component_spec
    function = component.python_func
    described = _described(inspect.getdoc(function) or "")
    parts = [f"## `{function.__name__}`", described[""], _use(function)]
    annotations = inspect.signature(function).parameters
    inputs = [
        (name, _type_name(item), _default(item), described.get(name, "")) for name, item in (spec.inputs or {}).items()
    ]
    outputs = [(name, _type_name(item), described.get(name, "")) for name, item in (spec.outputs or {}).items()]
    if "Output" in dict(spec.outputs or {}):
        outputs = [(n, t, described.get("Returns", d) if n == "Output" else d) for n, t, d in outputs]
    known = {name for name, *_ in [*inputs, *outputs]}
    inputs += [(name, "task final status", "", described.get(name, "")) for name in annotations if name not in known]
    parts += [_table(("input", "type", "default", "what it is"), inputs)]
    if outputs:
        parts.append(_table(("output", "type", "what it is"), outputs))
    return "\n\n".join(part for part in parts if part)


def _section(path: str) -> str:
    """A document's keys, types, defaults and docstrings."""
    module, _, name = path.rpartition(".")
    document = getattr(importlib.import_module(f"headway.components.{module}"), name)
    rows = [
        (key, f"`{_type_text(field.annotation)}`", _shown_default(field), _one_line(field.description) or _told(field))
        for key, field in document.model_fields.items()
    ]
    text = (inspect.getdoc(document) or "").split("\n\n")[0]
    return f"## {name}\n\n{_one_line(text)}\n\n{_table(('key', 'type', 'default', 'what it is'), rows)}"


def _type_text(annotation: Any) -> str:
    """An annotation as people read it, without the checks that pydantic finds in it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(_type_text(argument) for argument in arguments if argument is not type(None))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_type_text, arguments))}]"
    return "any" if annotation is Any else str(annotation.__name__)


def _told(field: Any) -> str:
    """What the document inside a field says of itself, for a field that says nothing."""
    inner = [kind for kind in _leaves(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return _one_line((inspect.getdoc(inner[0]) or "").split("\n\n")[0]) if inner else ""


def _leaves(annotation: Any) -> list[Any]:
    arguments = get_args(annotation)
    return [leaf for argument in arguments for leaf in _leaves(argument)] if arguments else [annotation]


def _shown_default(field: Any) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or default in ("", [], {}):
        return "none"
    if isinstance(default, BaseModel):
        return "its own defaults"
    return f"`{getattr(default, 'value', default)!r}`".replace("'", '"')


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _use(function: Any) -> str:
    name = function.__name__
    return f'```python\nfrom headway.components import load\n\n{name} = load("{name}")\n```'


def _described(docstring: str) -> dict[str, str]:
    """A Google-style docstring as descriptions by argument; the text before the sections has the empty name."""
    from docstring_parser import parse

    parsed = parse(docstring)
    found = {parameter.arg_name: " ".join((parameter.description or "").split()) for parameter in parsed.params}
    found[""] = "\n\n".join(text for text in (parsed.short_description, parsed.long_description) if text)
    if parsed.returns:
        found["Returns"] = " ".join((parsed.returns.description or "").split())
    return found


def _type_name(item: Any) -> str:
    return str(item.type).removeprefix("system.").split("@")[0]


def _default(item: Any) -> str:
    if not item.optional:
        return "required"
    return f"`{item.default!r}`"


def _table(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}"]
    lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in (f'`{row[0]}`', *row[1:]))} |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Write every README, or with `--check` say which are stale; the exit code says whether any was."""
    wanted = readmes()
    outdated = stale()
    if "--check" in sys.argv[1:]:
        for path in outdated:
            sys.stderr.write(f"{path.relative_to(_ROOT.parent)} is stale; run `make docs`\n")
        return 1 if outdated else 0
    for path in outdated:
        path.write_text(wanted[path], encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(_ROOT.parent)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
