"""Search spaces: what is sampled is inside, goes through text and back, and exists only where it should."""

import json
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.errors import ConfigError
from headway.components.tune.space import Space, scalar_text
from headway.components.tune.spec import TuningSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)

names = st.text("abcdefgh_", min_size=1, max_size=8)
scalars = st.one_of(
    st.booleans(), st.none(), st.integers(-5, 5), st.text("abcxyz", min_size=1, max_size=4), st.just(0.1)
)


@st.composite
def floats(draw: Any) -> dict[str, Any]:
    low = draw(st.integers(1, 100_000)) / 100
    if draw(st.booleans()):
        step = draw(st.sampled_from([0.1, 0.25, 3.0]))
        return {"type": "float", "low": low, "high": round(low + step * draw(st.integers(1, 50)), 4), "step": step}
    high = low * draw(st.floats(1.01, 1e4)) + 1e-3
    return {"type": "float", "low": low, "high": high, "log": draw(st.booleans())}


@st.composite
def ints(draw: Any) -> dict[str, Any]:
    low = draw(st.integers(1, 1000))
    if draw(st.booleans()):
        return {"type": "int", "low": low, "high": low + draw(st.integers(1, 5000)), "log": True}
    step = draw(st.integers(1, 7))
    return {"type": "int", "low": low - 500, "high": low - 500 + step * draw(st.integers(1, 300)), "step": step}


@st.composite
def categories(draw: Any) -> dict[str, Any]:
    values = draw(st.lists(scalars, min_size=2, max_size=6, unique_by=lambda v: scalar_text(v).lower()))
    distinct = [v for at, v in enumerate(values) if v not in values[:at]]
    return {"type": "categorical", "values": distinct if len(distinct) > 1 else ["a", "b"]}


@st.composite
def spaces(draw: Any) -> dict[str, Any]:
    """A space with a switch, parameters that follow it, and parameters that follow nothing."""
    switch = {"type": "categorical", "values": ["left", "right", "middle"]}
    section: dict[str, Any] = {"switch": switch}
    for name in draw(st.lists(names.filter(lambda n: n != "switch"), max_size=5, unique=True)):
        domain = draw(st.one_of(floats(), ints(), categories()))
        if draw(st.booleans()):
            domain["when"] = {"switch": draw(st.sampled_from(["left", ["right", "middle"]]))}
        section[name] = domain
    return section


def space_of(section: Any) -> Space:
    return TuningSpec.parse({"space": section}).search_space


def sample(space: Space, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """One point: values by key, and what Optuna holds by dimension."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    return space.suggest(trial), trial.params


@given(section=spaces(), seed=st.integers(0, 2**31))
def test_sampled_values_are_inside_and_return_from_text(section: Any, seed: int) -> None:
    space = space_of(section)
    values, parameters = sample(space, seed)
    for each in space:
        if each.name in parameters:
            assert each.domain.contains(values[each.key])
    texts = {name: scalar_text(value) for name, value in parameters.items()}
    back = space.cast(texts)
    assert back.keys() == values.keys()
    for key, value in values.items():
        assert type(back[key]) is type(value)
        assert back[key] == pytest.approx(value, rel=1e-9) if isinstance(value, float) else back[key] == value


@given(section=spaces(), seed=st.integers(0, 2**31))
def test_a_parameter_exists_exactly_when_its_condition_holds(section: Any, seed: int) -> None:
    values, _ = sample(space_of(section), seed)
    for key, domain in section.items():
        wanted = domain.get("when", {}).get("switch")
        holds = wanted is None or values["switch"] in (wanted if isinstance(wanted, list) else [wanted])
        assert (key in values) is holds


@given(section=spaces(), seed=st.integers(0, 2**31))
def test_a_point_is_named_and_keyed_back(section: Any, seed: int) -> None:
    space = space_of(section)
    values, parameters = sample(space, seed)
    assert space.named(values) == parameters
    assert space.keyed(parameters) == values
    assert space.named({**values, "more": 1}) is None
    assert space.named({key: value for key, value in values.items() if key != "switch"}) is None


@given(section=spaces())
def test_a_space_returns_from_yaml(section: Any) -> None:
    spec = TuningSpec.parse({"space": section})
    again = TuningSpec.parse(spec.dump())
    assert again == spec
    assert json.dumps(again.model_dump(mode="json")) == json.dumps(spec.model_dump(mode="json"))


def test_one_key_with_several_domains() -> None:
    section = {
        "estimator": {"type": "categorical", "values": ["boosting", "forest", "linear"]},
        "depth": [
            {"type": "int", "low": 2, "high": 8, "when": {"estimator": "boosting"}},
            {"type": "int", "low": 10, "high": 30, "when": {"estimator": "forest"}},
        ],
    }
    space = space_of(section)
    found = [sample(space, seed)[0] for seed in range(60)]
    assert {value["estimator"] for value in found} == {"boosting", "forest", "linear"}
    for value in found:
        inside = {"boosting": range(2, 9), "forest": range(10, 31), "linear": [None]}[value["estimator"]]
        assert value.get("depth") in inside
    assert space.conditional == ["depth (estimator=boosting)", "depth (estimator=forest)"]
    assert space.cast({"estimator": "forest", "depth (estimator=forest)": "12"}) == {"estimator": "forest", "depth": 12}


def test_conditions_of_conditions() -> None:
    section = {
        "c": {"type": "int", "low": 1, "high": 2, "when": {"b": True}},
        "b": {"type": "categorical", "values": [True, False], "when": {"a": 1}},
        "a": {"type": "categorical", "values": [1, 2]},
    }
    space = space_of(section)
    assert [each.key for each in space] == ["a", "b", "c"]
    for seed in range(30):
        values, _ = sample(space, seed)
        assert ("b" in values) is (values["a"] == 1)
        assert ("c" in values) is (values.get("b") is True)


class TestKatibsSamplers:
    """They round to multiples of the step from 0, or beyond the ends; the cast puts that right, and nothing else."""

    @pytest.mark.parametrize(("text", "value"), [("20", 17), ("17", 17), ("10", 7), ("5", 7), ("1.2e1", 7)])
    def test_int_step(self, text: str, value: int) -> None:
        space = space_of({"n": {"type": "int", "low": 7, "high": 107, "step": 10}})
        assert space.cast({"n": text}) == {"n": value}

    @pytest.mark.parametrize("text", ["-3.0", "117", "1.5", "nan", "inf", "many"])
    def test_int_refused(self, text: str) -> None:
        space = space_of({"n": {"type": "int", "low": 7, "high": 107, "step": 10}})
        with pytest.raises(ConfigError, match="The parameter 'n': "):
            space.cast({"n": text})

    @pytest.mark.parametrize("text", ["0.0999", "1.01", "nan", "inf", "-inf", "", "0x10"])
    def test_float_refused(self, text: str) -> None:
        space = space_of({"x": {"type": "float", "low": 0.1, "high": 1.0}})
        with pytest.raises(ConfigError, match="The parameter 'x': "):
            space.cast({"x": text})

    def test_names(self) -> None:
        space = space_of({"alpha": {"type": "float", "low": 0.1, "high": 1.0}})
        with pytest.raises(ConfigError, match="'alpa' is no parameter of the search - did you mean 'alpha'"):
            space.cast({"alpa": "0.5"})
        with pytest.raises(ConfigError, match="'alpha' is missing"):
            space.cast({})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "at least 1 item"),
        ({"x": {"type": "float", "low": 1, "high": 1}}, "low 1 must be below high 1"),
        ({"x": {"type": "float", "low": 0, "high": 1, "log": True}}, "log needs a low above 0"),
        ({"x": {"type": "float", "low": 0, "high": 1, "step": 0.3}}, "the last value is 0.9"),
        ({"x": {"type": "float", "low": 1, "high": 2, "step": 0.5, "log": True}}, "exclude each other"),
        ({"x": {"type": "float", "low": ".inf", "high": 2}}, "finite number|valid number"),
        ({"x": {"type": "int", "low": 1, "high": 10, "step": 4}}, "the last value is 9"),
        ({"x": {"type": "int", "low": 1, "hihg": 10}}, "space.x.0.int.hihg is not a known key - did you mean 'high'"),
        ({"x": {"type": "intt", "low": 1, "high": 2}}, "space.x.0: `type` must be float, int or categorical"),
        ({"x": {"low": 1, "high": 2}}, "space.x.0: `type` must be float, int or categorical"),
        ({"x": []}, "x has no domain"),
        ({"x": 5}, "space.x: .*list"),
        ({"x": {"type": "categorical", "values": ["a"]}}, "at least 2 items"),
        ({"x": {"type": "categorical", "values": [1, True]}}, "cannot be told apart"),
        ({"x": {"type": "categorical", "values": ["1", 1]}}, "cannot be told apart"),
        (
            {
                "x": {"type": "int", "low": 1, "high": 2, "when": {"estimater": "a"}},
                "estimator": {"type": "categorical", "values": ["a", "b"]},
            },
            "x: `when` names 'estimater', which is not in the space - did you mean 'estimator'",
        ),
        (
            {
                "x": {"type": "int", "low": 1, "high": 2, "when": {"e": "ridgge"}},
                "e": {"type": "categorical", "values": ["ridge", "lasso"]},
            },
            "x: e is never 'ridgge' - did you mean 'ridge'",
        ),
        (
            {"x": {"type": "int", "low": 1, "high": 2, "when": {"n": 3}}, "n": {"type": "int", "low": 1, "high": 4}},
            "which is not categorical",
        ),
        (
            {
                "a": {"type": "categorical", "values": [1, 2], "when": {"b": 1}},
                "b": {"type": "categorical", "values": [1, 2], "when": {"a": 1}},
            },
            "the conditions of a, b go in a circle",
        ),
        (
            {
                "e": {"type": "categorical", "values": ["a", "b"]},
                "x": [
                    {"type": "int", "low": 1, "high": 2, "when": {"e": ["a", "b"]}},
                    {"type": "int", "low": 5, "high": 9, "when": {"e": "b"}},
                ],
            },
            "x: two of its domains can hold at once",
        ),
        ({"x": [{"type": "int", "low": 1, "high": 2}, {"type": "int", "low": 5, "high": 9}]}, "each needs a `when`"),
    ],
)
def test_bad_spaces_are_refused_with_their_key(section: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TuningSpec.parse({"space": section})
