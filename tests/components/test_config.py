"""Typed documents: what they refuse and how they say it."""

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from headway.components.config import MAX_DOCUMENT_BYTES, Config, parse_yaml
from headway.components.errors import ConfigError


class Wheel(Config):
    size: int = Field(default=28, ge=10)


class Bike(Config):
    document: ClassVar[str] = "bike"

    name: str
    wheels: list[Wheel] = []
    bell: bool = True
    spare: dict[str, Wheel] = {}


def refusal(source: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Bike.parse(source, where="bike.yaml")  # type: ignore[arg-type]
    return str(caught.value)


class TestRefused:
    def test_an_unknown_key_with_the_near_one(self) -> None:
        assert refusal("name: a\nbel: true") == "bike.yaml: bel is not a known key - did you mean 'bell'?"

    def test_an_unknown_key_deep_inside(self) -> None:
        assert refusal("name: a\nwheels: [{sise: 1}]") == (
            "bike.yaml: wheels.0.sise is not a known key - did you mean 'size'?"
        )
        assert "spare.front.sise is not a known key - did you mean 'size'?" in refusal(
            "name: a\nspare: {front: {sise: 1}}"
        )

    def test_all_problems_at_once(self) -> None:
        message = refusal("wheels: [{size: 2}]\nbell: maybe")
        assert "name is missing" in message
        assert "wheels.0.size: Input should be greater than or equal to 10 (got 2)" in message
        assert "bell: Input should be a valid boolean" in message

    @pytest.mark.parametrize(("text", "said"), [("[1]", "got a list"), ("3", "got a int"), ("", "name is missing")])
    def test_what_is_not_a_mapping(self, text: str, said: str) -> None:
        assert said in refusal(text)

    def test_a_key_given_twice(self) -> None:
        assert refusal("name: a\nname: b") == "bike.yaml, line 2, column 1: not valid YAML: the key 'name' stands twice"

    def test_broken_yaml_with_its_place(self) -> None:
        assert refusal("name: [a").startswith("bike.yaml, line 1, column 9: not valid YAML")

    @pytest.mark.parametrize(
        "text", ["!!python/object/apply:os.system [ls]", "{[1]: 2}", "a: 2020-13-45", "[" * 10_000]
    )
    def test_yaml_that_is_more_than_data(self, text: str) -> None:
        assert "not valid YAML" in refusal(text)

    def test_nan_and_infinity(self) -> None:
        class Weight(Config):
            grams: float

        with pytest.raises(ConfigError, match="finite"):
            Weight.parse("grams: .nan")

    def test_a_file_that_is_missing_a_folder_too_large_or_not_text(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            Bike.load(tmp_path / "missing.yaml")
        with pytest.raises(ConfigError, match="is a folder"):
            Bike.load(tmp_path)
        large = tmp_path / "large.yaml"
        large.write_bytes(b"#" * (MAX_DOCUMENT_BYTES + 1))
        with pytest.raises(ConfigError, match="larger than"):
            Bike.load(large)
        binary = tmp_path / "binary.yaml"
        binary.write_bytes(b"name: \xff")
        with pytest.raises(ConfigError, match="not UTF-8"):
            Bike.load(binary)


class TestAccepted:
    def test_a_round_trip_gives_an_equal_document(self) -> None:
        bike = Bike(name="ä b", wheels=[Wheel(size=20)], spare={"x": Wheel()})
        assert Bike.parse(bike.dump()) == bike

    def test_a_merge_key_is_not_a_duplicate(self) -> None:
        assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}", where="t") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}

    def test_a_document_cannot_be_changed(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            Bike(name="a").name = "b"  # type: ignore[misc]
