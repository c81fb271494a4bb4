import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.bundle import Candidate
from headway.components.errors import TrainingError
from headway.components.optimise.choose import Measured, choose, limits
from headway.components.optimise.spec import OptimiseSpec

SPEC = OptimiseSpec()


def measured(name: str, *times: float, refused: str = "") -> Measured:
    return Measured(
        record=Candidate(name=name, size=1, refused=refused), microseconds=dict(zip((1, 64), times, strict=False))
    )


class TestLimits:
    @pytest.mark.parametrize(("difference", "refused"), [(1e-4, False), (1.1e-4, True), (math.nan, True)])
    def test_graph(self, difference: float, refused: bool) -> None:
        record = Candidate.model_construct(name="onnx", size=1, difference=difference, flips=3, loss=0.0)
        assert bool(limits(record, SPEC)) is refused

    @pytest.mark.parametrize(
        ("loss", "difference", "reason"),
        [
            (0.0, 0.01, ""),
            (-0.01, 0.01, ""),
            (0.003, 0.01, "loses up to 0.003 of the metric; allowed is 0.002"),
            (math.nan, 0.01, "loses up to nan of the metric; allowed is 0.002"),
            (0.0, 0.2, "moves a row by 0.2; allowed is 0.05"),
            (None, 0.01, "its loss of quality is unknown"),
        ],
    )
    def test_int8(self, loss: Any, difference: float, reason: str) -> None:
        record = Candidate.model_construct(name="onnx-int8", size=1, difference=difference, loss=loss)
        assert limits(record, SPEC).startswith(reason) if reason else limits(record, SPEC) == ""


class TestChoose:
    @pytest.mark.parametrize(
        ("files", "chosen", "reason"),
        [
            ([measured("skops", 4000, 5000), measured("onnx", 20, 90)], "onnx", "faster than skops"),
            ([measured("skops", 4000, 5000), measured("onnx", 9000, 90_000)], "skops", "faster than onnx"),
            ([measured("skops", 1, 1), measured("onnx", refused="differs by 1")], "skops", "onnx: differs by 1"),
            ([measured("onnx", 20, 90)], "onnx", "the only file"),
            (
                [measured("skops", 900, 900), measured("onnx", 130, 1659), measured("onnx-int8", 45, 861)],
                "onnx-int8",
                "at least 1.1 times faster than onnx at every batch size, within the limits",
            ),
            (
                [measured("skops", 900, 900), measured("onnx", 31, 142), measured("onnx-int8", 36, 110)],
                "onnx",
                "int8 is not 1.1 times faster at every batch size",
            ),
            (
                [measured("skops", 900, 900), measured("onnx", 31, 142), measured("onnx-int8", refused="loses")],
                "onnx",
                "faster than skops",
            ),
        ],
    )
    def test_rule(self, files: list[Measured], chosen: str, reason: str) -> None:
        assert choose(files, SPEC) == (chosen, reason)

    def test_required_int8_is_taken_without_a_look_at_times(self) -> None:
        files = [measured("skops", 1, 1), measured("onnx", 1, 1), measured("onnx-int8", 9, 9)]
        assert choose(files, OptimiseSpec(int8="require"))[0] == "onnx-int8"

    def test_required_int8_that_is_refused(self) -> None:
        files = [measured("skops", 1, 1), measured("onnx", 1, 1), measured("onnx-int8", refused="loses up to 0.1")]
        with pytest.raises(TrainingError, match=r"int8 is required: loses up to 0\.1"):
            choose(files, OptimiseSpec(int8="require"))

    @given(st.lists(st.floats(1, 1e6), min_size=6, max_size=6), st.floats(1, 3))
    def test_nothing_slower_is_ever_chosen(self, times: list[float], speedup: float) -> None:
        files = [measured(name, *times[2 * i : 2 * i + 2]) for i, name in enumerate(("skops", "onnx", "onnx-int8"))]
        name, _ = choose(files, OptimiseSpec(min_speedup=speedup))
        by_name = {one.record.name: one.microseconds for one in files}
        if name == "onnx-int8":
            full = min(("skops", "onnx"), key=lambda other: math.prod(by_name[other].values()))
            assert all(by_name[full][batch] >= speedup * by_name[name][batch] for batch in (1, 64))
        else:
            other = "onnx" if name == "skops" else "skops"
            assert math.prod(by_name[name].values()) <= math.prod(by_name[other].values())
