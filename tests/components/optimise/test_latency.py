import time
from typing import Any

import numpy as np

from headway.components.optimise.latency import latencies


def test_microseconds_of_a_call() -> None:
    seen: set[int] = set()

    def slow(numbers: Any, texts: Any) -> None:
        seen.add(len(numbers))
        time.sleep(0.002)

    numbers, texts = np.zeros((10, 3), np.float32), np.empty((10, 0), dtype=object)
    found = latencies({"slow": slow, "quick": lambda *_: None}, numbers, texts, batch=64, seconds=0.05)
    assert 2_000 <= found["slow"] < 20_000
    assert found["quick"] < 100
    assert seen == {64}


def test_one_real_row_is_enough() -> None:
    numbers, texts = np.zeros((1, 3), np.float32), np.empty((1, 0), dtype=object)
    assert latencies({"it": lambda *_: None}, numbers, texts, batch=1, seconds=0.01)["it"] > 0
