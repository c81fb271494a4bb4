"""Which file is served: a rule over what was measured, and nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from headway.components.bundle import Candidate
from headway.components.errors import TrainingError
from headway.components.optimise.files import INT8, ONNX
from headway.components.optimise.spec import OptimiseSpec


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One file with what was measured of it."""

    record: Candidate
    microseconds: dict[int, float] = field(default_factory=dict)
    """Time of one call by rows in it; empty where it was not timed."""

    @property
    def allowed(self) -> bool:
        """Whether it may be served."""
        return not self.record.refused


def limits(record: Candidate, spec: OptimiseSpec) -> str:
    """Why a file's answers are not good enough; empty when they are.

    Args:
        record: A file with its difference and loss; NaN is never good enough.
        spec: What may be lost.
    """
    difference = math.nan if record.difference is None else record.difference
    if record.name != INT8:
        if not difference <= spec.tolerance:
            return f"differs by {difference:.2g} ({record.flips} labels); allowed is {spec.tolerance:g}"
        return ""
    if record.loss is None:
        return "its loss of quality is unknown: the rows have no target, or the metric is undefined on them"
    if not record.loss <= spec.max_quality_loss:
        return f"loses up to {record.loss:.2g} of the metric; allowed is {spec.max_quality_loss:g}"
    if not difference <= spec.max_difference:
        return f"moves a row by {difference:.2g}; allowed is {spec.max_difference:g}"
    return ""


def choose(measured: Sequence[Measured], spec: OptimiseSpec) -> tuple[str, str]:
    """The name of the file to serve, and the reason in one sentence.

    Of the files in full precision the one with the smallest geometric mean of its times; int8 only when it is faster
    than that one by `min_speedup` at every batch size.

    Args:
        measured: The files, the one that training wrote first; at least one is allowed and timed.
        spec: What is asked for.

    Raises:
        TrainingError: int8 is required and refused; says why.
    """
    by_name = {one.record.name: one for one in measured}
    int8 = by_name.get(INT8)
    if spec.int8 == "require":
        if int8 is None or not int8.allowed:
            reason = int8.record.refused if int8 else "there is no ONNX graph"
            raise TrainingError(f"int8 is required: {reason}", fix="set `int8: auto`, or allow a larger loss")
        return INT8, "int8 is required, and it stays within the limits"
    full = [one for one in measured if one.allowed and one.microseconds and one is not int8]
    fastest = min(full, key=lambda one: math.prod(one.microseconds.values()))
    name = fastest.record.name
    if int8 is not None and int8.allowed and int8.microseconds:
        if all(fastest.microseconds[batch] >= spec.min_speedup * time for batch, time in int8.microseconds.items()):
            return (
                INT8,
                f"at least {spec.min_speedup:g} times faster than {name} at every batch size, within the limits",
            )
        return name, f"int8 is not {spec.min_speedup:g} times faster at every batch size"
    if len(full) > 1:
        return name, f"faster than {' and '.join(one.record.name for one in full if one is not fastest)}"
    refused = by_name.get(ONNX)
    if refused is not None and not refused.allowed:
        return name, f"{ONNX}: {refused.record.refused}"
    return name, "the only file"
