"""Find a pipeline by what a person types: a shipped example's name, a project's folder, or a compiled YAML file."""

import importlib
import importlib.util
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headway.components.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from headway.components.data_validate.contract import Contract
    from headway.pipelines.spec import ModelSpec

SPEC_FILE = "model.yaml"
PIPELINE_MODULE = "pipeline.py"
COMPILED_FILE = "pipeline.yaml"
_SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class Project:
    """A folder with a model specification, a contract and a pipeline module."""

    folder: Path
    overrides: tuple[str, ...] = ()

    @cached_property
    def spec(self) -> "ModelSpec":
        """The model specification, overrides applied."""
        from headway.pipelines.spec import load_spec

        return load_spec(self.folder / SPEC_FILE, list(self.overrides))

    @cached_property
    def contract(self) -> "Contract":
        """The data contract."""
        from headway.components.data_validate.contract import Contract

        return Contract.load(self.folder / self.spec.contract)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.spec.name

    @property
    def pipeline_name(self) -> str:
        """The pipeline's name on every platform."""
        return f"{self.spec.name}-training"

    @property
    def compiled(self) -> Path:
        """The checked-in YAML."""
        return self.folder / COMPILED_FILE

    def arguments(self) -> dict[str, str | bool]:
        """The pipeline's parameters as the specification says.

        Raises:
            HeadwayError: The specification and the contract do not fit together; nothing has run.
        """
        from headway.pipelines.spec import pipeline_arguments

        self.spec.check(self.contract)
        return pipeline_arguments(self.spec, self.contract)

    def pipeline(self) -> Any:
        """The pipeline function of the project's module; the shipped training pipeline if it has none."""
        from headway.pipelines.training import training

        module = self.folder / PIPELINE_MODULE
        if not module.is_file():
            return self._shaped()
        loaded = _load(module)
        if not hasattr(loaded, "pipeline"):
            raise ConfigError(f"{module}: no attribute `pipeline`", expected="a KFP pipeline under the name `pipeline`")
        return self._shaped() if loaded.pipeline is training else loaded.pipeline

    def _shaped(self) -> Any:
        """The training pipeline with the optional steps that the specification asks for."""
        from headway.pipelines.training import Shape, shaped

        spec = self.spec
        return shaped(
            Shape(
                distributed=spec.distributed,
                machines=spec.machines > 1,
                tuned=spec.tuning is not None,
                optimised=spec.optimise is not None,
            )
        )


@dataclass(frozen=True)
class SharedPipeline:
    """A pipeline that belongs to no model: its parameters say what it works on."""

    name: str

    @property
    def pipeline_name(self) -> str:
        """The pipeline's name on every platform."""
        return self.name

    @property
    def compiled(self) -> Path:
        """The checked-in YAML."""
        return _SHIPPED / f"{self.name}.yaml"

    def arguments(self) -> dict[str, str | bool]:
        """Its parameters' values: none but the defaults."""
        return {}

    def pipeline(self) -> Any:
        """The pipeline function."""
        return getattr(importlib.import_module(f"headway.pipelines.{self.name}"), self.name)


SHARED_PIPELINES = ("release", "tuning")
"""The shared pipelines, each a module of this package with its compiled YAML beside it."""


def resolve(name: str, overrides: list[str] | None = None) -> Project:
    """The project that a name means.

    Args:
        name: A shipped example (`flights`), a folder with a model.yaml, or a path to a model.yaml.
        overrides: `section.key=value` changes to the specification.

    Raises:
        UnknownNameError: Nothing of that name; offers the near ones.
    """
    path = Path(name).expanduser()
    if path.name == SPEC_FILE and path.is_file():
        path = path.parent
    if (path / SPEC_FILE).is_file():
        return Project(path.resolve(), tuple(overrides or ()))
    shipped = shipped_projects()
    if name in shipped:
        return Project(shipped[name], tuple(overrides or ()))
    if path.is_dir():
        raise ConfigError(
            f"{path}: no {SPEC_FILE} in this folder",
            fix="write one with `headway new NAME --data FILE --target COLUMN`",
        )
    raise UnknownNameError("pipeline", name, {*shipped, *_projects_here()})


def is_compiled(pipeline: object) -> bool:
    """Whether what was named is a compiled pipeline's file."""
    path = Path(pipeline) if isinstance(pipeline, str) else None
    return path is not None and path.suffix in (".yaml", ".yml") and path.name != SPEC_FILE and path.is_file()


def compiled_with_arguments(pipeline: str, overrides: list[str] | None = None) -> tuple[str, dict[str, Any]]:
    """The compiled text of what was named, and the arguments of one run of it.

    The text carries the values of model.yaml as its defaults, the arguments those of the overrides: so a changed value
    makes another run and not another version.

    Args:
        pipeline: What `resolve` takes, or a compiled pipeline's `.yaml`.
        overrides: `section.key=value` changes; for a compiled pipeline `parameter=value`.
    """
    from headway.pipelines.compile import compile_text, load_spec

    if is_compiled(pipeline):
        from headway.pipelines.arguments import override

        path = Path(pipeline)
        spec, _ = load_spec(path)
        return path.read_text(encoding="utf-8"), override(spec, {}, overrides or [])
    project = resolve(pipeline)
    text = compile_text(project.pipeline(), name=project.pipeline_name, parameters=project.arguments())
    return text, dict(resolve(pipeline, overrides).arguments())


def shipped_projects() -> dict[str, Path]:
    """The examples that come with Headway, by name."""
    return {path.parent.name: path.parent for path in sorted(_SHIPPED.glob(f"*/{SPEC_FILE}"))}


def _projects_here() -> list[str]:
    """Folders of the current one that hold a model specification."""
    try:
        return [entry.name for entry in os.scandir() if entry.is_dir() and (Path(entry.path) / SPEC_FILE).is_file()]
    except OSError:  # the folder may not be read; its names are only suggestions
        return []


def _load(path: Path) -> ModuleType:
    """Import a module by its path, without putting its folder on the module path."""
    spec = importlib.util.spec_from_file_location(f"headway_project_{path.parent.name}".replace("-", "_"), path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python module")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}") from None
    except ImportError as error:
        raise ConfigError(f"{path}: {error}") from None
    return module
