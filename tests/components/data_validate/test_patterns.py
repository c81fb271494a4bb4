"""Patterns: both engines agree, and hostile text costs nothing."""

import re
import time

import duckdb
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from headway.components.data_validate.patterns import MAX_PATHS, matcher, matches_all, parse, paths, random_text

PIECES = st.sampled_from(["a", "[a-c]", r"\d", r"\w", ".", "(a|bc)", "[^a]", "(?:xy)?", "b{2}", r"\.", "(?i:q)"])
REPEATS = st.sampled_from(["", "*", "+", "?", "{1,3}", "*?"])
REGEXES = st.lists(st.tuples(PIECES, REPEATS), min_size=1, max_size=4).map(
    lambda parts: "".join(f"(?:{piece}){repeat}" for piece, repeat in parts)
)


class TestAgreement:
    @given(REGEXES, st.text("abcxyq1.\né٣Q", max_size=8))
    @settings(max_examples=200, deadline=None)
    def test_python_and_duckdb_give_one_answer(self, regex: str, text: str) -> None:
        row = duckdb.execute("SELECT regexp_full_match(?, ?)", [text, regex]).fetchone()
        assert row is not None
        assert matcher(regex)(text) is row[0] is matches_all(regex, [text])

    @given(REGEXES, st.integers(0, 1000))
    @settings(max_examples=100, deadline=None)
    def test_random_texts_match(self, regex: str, seed: int) -> None:
        assert matcher(regex)(random_text(regex, np.random.default_rng(seed)))

    def test_a_line_end_after_the_text_is_no_match(self) -> None:
        assert not matcher("a$")("a\n")

    def test_digits_of_other_scripts_are_no_digits(self) -> None:
        assert not matcher(r"\d")("٣")


class TestHostileText:
    @pytest.mark.parametrize(
        ("regex", "text"), [("(a+)+b", "a" * 200), ("(a|a){1,30}b", "a" * 30), ("a*a*a*a*b", "a" * 250)]
    )
    def test_a_pattern_that_could_explode_goes_to_the_linear_engine(self, regex: str, text: str) -> None:
        assert paths(parse(regex)) == MAX_PATHS
        started = time.perf_counter()
        assert not matcher(regex)(text)
        assert time.perf_counter() - started < 2

    def test_a_long_text_goes_to_the_linear_engine(self) -> None:
        assert matcher("a+b?")("a" * 5_000_000)

    def test_a_simple_pattern_stays_in_python(self) -> None:
        assert paths(parse("N[0-9]{1,5}[A-Z]{0,2}")) == 15

    def test_what_parse_refuses_is_never_run(self) -> None:
        with pytest.raises(ValueError, match=re.escape("look-around")):
            matcher("(?=a)a")
