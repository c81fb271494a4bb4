"""What may be chosen: the optimise section of a model.yaml.

optimise:
  int8: auto                # or off, or require
  max_quality_loss: 0.002   # of the metric that the evaluation leads with
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from headway.components.config import Config


def _as_int8(value: Any) -> Any:
    # YAML 1.1 reads a bare `off` as false.
    return "off" if value is False else value


class OptimiseSpec(Config):
    """The optimise section of a model.yaml: which file is served, and what it may lose."""

    document: ClassVar[str] = "optimise section"

    enabled: bool = True
    """Whether anything is measured; without it the bundle passes as it is."""
    int8: Annotated[Literal["auto", "off", "require"], BeforeValidator(_as_int8)] = "auto"
    """Wide layers in 8 bits: `auto` where they are measured faster and lose no more than they may; `off`; or `require`,
    which takes them without timing anything, and fails where they lose too much. Only `require` decides the same on
    every machine."""
    metric: str = ""
    """What quality means; by default the metric that the evaluation leads with."""
    max_quality_loss: float = Field(default=0.002, ge=0.0)
    """How much worse the metric may become by int8, at worst within its 95 % interval: in the metric's unit, or as a
    share of the target's standard deviation for errors in the target's unit, such as rmse."""
    max_difference: float = Field(default=0.05, gt=0.0)
    """Largest difference that int8 may make to any row: of a probability, or as a share of the target's standard
    deviation."""
    tolerance: float = Field(default=1e-4, gt=0.0)
    """Largest difference between the ONNX graph and the trained file on any row, in the same units."""
    min_speedup: float = Field(default=1.1, ge=1.0)
    """How many times faster int8 must be than the fastest other file, at every batch size."""
    batches: list[Annotated[int, Field(ge=1, le=100_000)]] = Field(default=[1, 64], min_length=1, max_length=8)
    """Rows of one call, for each of which the files are timed."""
    rows: int = Field(default=5_000, ge=100, le=1_000_000)
    """Real rows, evenly spaced over the data, that the files are compared on."""
    seconds: float = Field(default=0.5, gt=0.0, le=60.0)
    """Time to measure one file at one batch size."""
