"""R_format (Eq. 4), and what is read from completions that break it."""

import pytest
from alignxplore.formats import Parsed, parse_completion, render_completion

GOOD = render_completion("1. joke: humorous.", "humorous.")


def test_the_canonical_form_parses_back():
    assert parse_completion(GOOD, "stop") == Parsed("1. joke: humorous.", "humorous.", True)
    without_opening = GOOD.removeprefix("<think>")
    assert parse_completion(without_opening, "stop", "template") == Parsed("1. joke: humorous.", "humorous.", True)


@pytest.mark.parametrize(
    ("text", "finish", "preference"),
    [
        (GOOD, "length", "humorous."),
        (GOOD + " More.", "stop", "humorous."),
        (GOOD + GOOD, "stop", "humorous."),
        ("<think>r</think> humorous.", "stop", "humorous."),
        ("<think>r</think><answer>humorous.", "stop", "humorous."),
        ("<think></think><answer>humorous.</answer>", "stop", "humorous."),
        ("<think>r</think><answer> </answer>", "stop", ""),
        ("r</think><answer>humorous.</answer>", "stop", "humorous."),
        ("<answer>humorous.</answer><think>r</think>", "stop", None),
        ("humorous.", "stop", "humorous."),
        ("", "stop", ""),
    ],
)
def test_broken_formats_earn_nothing_but_can_be_read(text, finish, preference):
    parsed = parse_completion(text, finish)
    assert not parsed.format_ok
    assert preference is None or parsed.preference == preference


def test_models_that_do_not_reason():
    assert parse_completion(" humorous. ", "stop", "none") == Parsed("", "humorous.", True)
    assert parse_completion("<answer>humorous.</answer>", "stop", "none").preference == "humorous."
    assert not parse_completion("humorous", "length", "none").format_ok
    assert not parse_completion("  ", "stop", "none").format_ok
