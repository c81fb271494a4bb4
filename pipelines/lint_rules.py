"""The lint rules by name, and what one of them finds."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]

RULES: dict[str, tuple[Level, str]] = {
    "future-annotations": ("error", "postponed annotations hide the artifact types from kfp"),
    "parameter-type": ("error", "a type that kfp or its local runner cannot carry"),
    "dropped-decorator": ("error", "a decorator under @component is cut off with the module"),
    "unknown-name": ("error", "a name of the module, which the step does not have when it runs alone"),
    "runtime-install": ("error", "a package installed when the step starts"),
    "kfp-install": ("error", "kfp itself installed when the step starts"),
    "default-image": ("error", "no image named, so kfp's default of the day"),
    "embedded-artifact": ("error", "files packed into the pipeline, different bytes at each compile"),
    "sliced-metrics": ("error", "an artifact type whose every method fails and that no page shows"),
    "named-condition": ("error", "a condition on a named output, which the local runner silently skips"),
    "named-loop": ("error", "a loop over a named output, which the local runner cannot resolve"),
    "oversize": ("error", "a compiled pipeline too large for the workflow object"),
    "mutable-image": ("error", "a release with an image that can change under its tag"),
    "large-argument": ("warning", "a value that fills the workflow object"),
    "large-command": ("warning", "a command near the kernel's limit of 128 KiB"),
    "python-word": ("warning", "a value with `python3` in it, which the local runner rewrites to a path"),
    "no-resources": ("warning", "a step without a CPU or memory limit"),
    "importer-cache": ("warning", "a cached import, whose key does not see the data behind the address"),
}
"""Every rule: how bad a finding is, and what it finds."""


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found."""

    rule: str
    """The rule's name, a key of `RULES`."""
    place: str
    """Where: `file.py:12 function` or a place inside the compiled pipeline."""
    message: str
    """What is wrong there."""
    fix: str
    """What to do about it."""

    @property
    def level(self) -> Level:
        """`error` when the pipeline does not do what it says; `warning` when it may not."""
        return RULES[self.rule][0]

    def __str__(self) -> str:
        return f"{self.place}: {self.level} [{self.rule}] {self.message}. {self.fix}."
