"""The error tree: one base, codes that stay, messages that say what to do."""

import copy

import pytest

from headway.components import errors
from headway.components.errors import HeadwayError, RequestError, StepFailedError, UnknownNameError, UsageError

ALL = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HeadwayError)),
    key=lambda kind: kind.__name__,
)
EXAMPLES = [
    HeadwayError("broken", expected="whole", fix="mend it"),
    UnknownNameError("column", "carier", ["carrier", "origin"]),
    RequestError([{"field": "age", "expected": "at most 120", "got": "130"}]),
    StepFailedError("train", "no rows", detail="traceback", log="log.txt"),
]


def test_every_code_is_used_once() -> None:
    codes = [kind.code for kind in ALL]
    assert len(set(codes)) == len(codes)


def test_every_class_stands_in_the_tree_at_the_top_of_the_module() -> None:
    assert errors.__doc__
    assert [kind.__name__ for kind in ALL if kind.__name__ not in errors.__doc__] == []


def test_a_message_says_what_was_wrong_what_was_expected_and_what_to_do() -> None:
    assert str(EXAMPLES[0]) == "broken\nExpected: whole\nFix: mend it"


def test_a_wrong_name_offers_the_near_ones() -> None:
    assert str(EXAMPLES[1]) == "Unknown column 'carier' - did you mean 'carrier'?\nExpected: one of carrier, origin"


def test_near_names_ignore_case() -> None:
    assert "did you mean 'Distance'?" in str(UnknownNameError("column", "DISTANSE", ["Distance"]))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_being_taken_apart_and_rebuilt(error: HeadwayError) -> None:
    again = copy.deepcopy(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", [kind for kind in ALL if issubclass(kind, UsageError)])
def test_a_wrong_call_ends_with_2(kind: type[HeadwayError]) -> None:
    assert kind.exit_code == 2


@pytest.mark.parametrize("kind", [kind for kind in ALL if not issubclass(kind, UsageError)])
def test_everything_else_ends_with_1(kind: type[HeadwayError]) -> None:
    assert kind.exit_code == 1
