"""CPU, memory and GPU of a step: named presets, applied to a KFP task in one place.

The embedded platform gives a step the whole machine and ignores them, as kfp.local does.
"""

from dataclasses import dataclass, replace
from typing import Any

from headway.components.errors import UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one pod of a step may use."""

    cpu: str
    """Cores requested and allowed, as Kubernetes writes them: `2` or `500m`."""
    memory: str
    """Memory requested and allowed: `4Gi`."""
    gpus: int = 0
    """GPUs; 0 leaves the accelerator out."""
    gpu_type: str = "nvidia.com/gpu"
    """The accelerator's resource name."""

    def apply(self, task: Any) -> Any:
        """Set requests and limits on a KFP task and return the task."""
        from kfp.dsl import structures

        # Not by `set_cpu_request` and its like: each reads the source of every frame on the stack, only to name itself
        # in an error, which makes 0.4 s at every start of a pipeline of six steps.
        task.container_spec.resources = structures.ResourceSpec(
            cpu_request=self.cpu, cpu_limit=self.cpu, memory_request=self.memory, memory_limit=self.memory
        )
        if self.gpus:
            task.set_accelerator_type(self.gpu_type).set_accelerator_limit(self.gpus)
        return task


PRESETS: dict[str, Resources] = {
    "tiny": Resources(cpu="500m", memory="1Gi"),
    "small": Resources(cpu="1", memory="2Gi"),
    "medium": Resources(cpu="2", memory="8Gi"),
    "large": Resources(cpu="8", memory="32Gi"),
}
"""Presets by name, smallest first."""


def resources(preset: str, **changes: Any) -> Resources:
    """A preset, changed where wanted.

    Raises:
        UnknownNameError: There is no such preset; offers the near ones.

    Example:
        >>> resources("small", memory="4Gi")
        Resources(cpu='1', memory='4Gi', gpus=0, gpu_type='nvidia.com/gpu')
    """
    if preset not in PRESETS:
        raise UnknownNameError("resource preset", preset, PRESETS)
    return replace(PRESETS[preset], **changes)
