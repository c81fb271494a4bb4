"""Documents that people write: typed, unknown keys refused with the near name offered."""

import types
from pathlib import Path
from typing import Any, ClassVar, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from headway.components.errors import ConfigError, did_you_mean

MAX_DOCUMENT_BYTES = 1_000_000
"""A document larger than this is refused before it is parsed."""


class Config(BaseModel):
    """Base of every typed document: immutable, keyword-only, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    document: ClassVar[str] = "document"
    """What messages call it when it came without a file name."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read one document from a YAML file.

        Raises:
            ConfigError: The file is missing, too large, not YAML, or not this kind of document.
        """
        path = Path(path)
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "no such file"
            raise ConfigError(f"{path}: {kind}", expected=f"a YAML file with a {cls.document}")
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_DOCUMENT_BYTES:,} bytes", expected=f"a {cls.document}")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        return cls.parse(text, where=str(path))

    @classmethod
    def parse(cls, source: str | dict[str, Any], *, where: str | None = None) -> Self:
        """Check one document given as YAML text or as a mapping.

        Args:
            source: YAML (or JSON) text, or what such a text parses to.
            where: The name that messages use, usually the file's.

        Raises:
            ConfigError: All that is wrong with it, a line each.
        """
        where = where or cls.document
        data = parse_yaml(source, where=where) if isinstance(source, str) else source
        if data is None:
            data = {}
        if not isinstance(data, dict):
            raise ConfigError(
                f"{where}: got a {type(data).__name__}", expected=f"a mapping with the keys of a {cls.document}"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = [f"{where}: {_sentence(cls, problem)}" for problem in error.errors()]
            raise ConfigError("\n".join(dict.fromkeys(lines))) from None

    def dump(self) -> str:
        """The document as YAML text, without what only repeats a default; `parse` reads it back to an equal one."""
        data = self.model_dump(mode="json", exclude_defaults=True, by_alias=True)
        return dump_yaml(data)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice: YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a single value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _SafeDumper(yaml.SafeDumper):
    """A safe dumper that escapes rare line ends: PyYAML writes them plainly and does not read them back."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(character in text for character in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_SafeDumper.add_representer(str, _represent_text)


def dump_yaml(data: Any, **options: Any) -> str:
    """Data as YAML text in its own order, letters of every script as they are; `parse_yaml` reads it back equal."""
    options = {"sort_keys": False, "allow_unicode": True, "width": 120, **options}
    text: str = yaml.dump(data, Dumper=_SafeDumper, **options)
    return text


def parse_yaml(text: str, *, where: str) -> Any:
    """Parse YAML text safely.

    Raises:
        ConfigError: It is not YAML, with the line and the column.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader with one more check
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None


def _sentence(model: type[BaseModel], problem: Any) -> str:
    """One pydantic problem as one line that names the key, what was expected and what came."""
    # A part in angle brackets is the tag of a union, which nobody wrote.
    location = tuple(part for part in problem["loc"] if not str(part).startswith("<"))
    name = ".".join(str(part) for part in location) or "the document"
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{name} is not a known key{did_you_mean(str(location[-1]), _keys_at(model, location[:-1]))}"
    if kind == "missing":
        return f"{name} is missing"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    got = problem.get("input")
    shown = "" if isinstance(got, (dict, list)) or kind == "value_error" else f" (got {_short(got)})"
    return f"{name}: {message}{shown}"


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys that the model allows at a place inside the document."""
    current: list[type[BaseModel]] = [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for owner in current:
            field = owner.model_fields.get(str(part))
            if field is not None:
                following += _models_in(field.annotation)
        # An index, a mapping's key or a union's tag stays at the same models.
        current = following or current
    return [field.alias or name for owner in current for name, field in owner.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, list, dict, tuple):
        return [found for argument in get_args(annotation) for found in _models_in(argument)]
    if get_args(annotation):
        return _models_in(get_args(annotation)[0])
    return []
