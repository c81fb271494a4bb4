"""What a change of a model means to those who call it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.bundle import BundleInfo, Lineage, Signature
from headway.components.data_validate.contract import Contract
from headway.components.errors import RefusedNameError
from headway.components.register.semver import Interface, SemVer, next_version

COLUMNS: dict[str, Any] = {
    "distance": {"type": "integer", "range": {"min": 0, "max": 5000}},
    "carrier": {"type": "string", "values": {"allowed": ["AA", "UA"]}},
    "late": {"type": "boolean"},
}
LAST = SemVer(1, 2, 3)


def interface(columns: dict[str, Any] | None = None, **changes: Any) -> Interface:
    contract = Contract.parse({"name": "flights", "target": "late", "columns": columns or COLUMNS})
    info = BundleInfo.parse(
        {
            "name": "flights",
            "task": "binary",
            "target": "late",
            "classes": [False, True],
            "estimator": "logistic_regression",
            "formats": ["skops"],
            "lineage": Lineage(data_digest="d" * 64, contract_digest=contract.digest()).model_dump(),
            **changes,
        }
    )
    return Interface(info=info, contract=contract, signature=Signature.of(contract, info.task))


def after(new: Interface) -> tuple[str, str]:
    version, why = next_version((LAST, interface()), new)
    return str(version), "; ".join(why)


def with_column(name: str, **column: Any) -> dict[str, Any]:
    return {**COLUMNS, name: {**COLUMNS.get(name, {}), **column}}


class TestTheFirst:
    def test_it_is_one(self) -> None:
        assert next_version(None, interface()) == (SemVer(1, 0, 0), ["first version"])


class TestOtherData:
    def test_it_is_a_patch(self) -> None:
        assert after(interface()) == ("1.2.4", "same specification, other data")


class TestCallersGoOn:
    @pytest.mark.parametrize(
        ("new", "why"),
        [
            (interface(estimator="random_forest"), "estimator"),
            (interface(parameters={"C": 2.0}), "parameters"),
            (interface(with_column("carrier", values={"allowed": ["AA", "UA", "B6"]})), "contract"),
            (interface(with_column("distance", type="number")), "contract"),
            (interface(with_column("distance", range={"min": 0, "max": 9000})), "contract"),
        ],
    )
    def test_it_is_minor(self, new: Interface, why: str) -> None:
        version, said = after(new)
        assert version == "1.3.0"
        assert f"{why} changed" in said


class TestCallersBreak:
    @pytest.mark.parametrize(
        ("new", "why"),
        [
            (interface({k: v for k, v in COLUMNS.items() if k != "carrier"}), "input 'carrier' was removed"),
            (interface(with_column("speed", type="number")), "input 'speed' was added and is required"),
            (interface(with_column("distance", type="string", range=None)), "from integer to string"),
            (interface(with_column("carrier", values={"allowed": ["AA"]})), "values lose 'UA'"),
            (interface(classes=[True, False]), "classes changed from [False, True] to [True, False]"),
        ],
    )
    def test_it_is_major(self, new: Interface, why: str) -> None:
        version, said = after(new)
        assert version == "2.0.0"
        assert why in said

    def test_another_output(self) -> None:
        new = interface(task="regression", classes=[])
        assert after(new)[0] == "2.0.0"
        assert "output 'probability' was removed" in after(new)[1]


class TestReading:
    @given(st.tuples(*[st.integers(0, 10**6)] * 3))
    def test_text_and_back(self, numbers: tuple[int, int, int]) -> None:
        version = SemVer(*numbers)
        assert SemVer.parse(str(version)) == version

    @pytest.mark.parametrize("text", ["1", "1.0", "v1.0.0", "1.0.0-rc", "01.0.0", "1.0.0 ", "१.0.0"])
    def test_other_forms_are_refused(self, text: str) -> None:
        with pytest.raises(RefusedNameError, match="Refused semantic version"):
            SemVer.parse(text)
