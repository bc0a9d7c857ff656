"""What changed from one description to the next."""

import random

import pytest
from alignxplore.changes import Change, changes


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        ("", "Likes tea.", [("added", "Likes tea.")]),
        ("Likes tea.", "", [("dropped", "Likes tea.")]),
        ("Likes tea.", "Likes tea.", [("same", "Likes tea.")]),
        (
            "Likes long walks.",
            "Likes quiet walks.",
            [("same", "Likes "), ("dropped", "long "), ("added", "quiet "), ("same", "walks.")],
        ),
        ("humorous, playful", "humorous", [("same", "humorous"), ("dropped", ", playful")]),
        ("one\ntwo", "one two", [("same", "one two")]),
        ("don't <b>", "don't <i>", [("same", "don't <"), ("dropped", "b"), ("added", "i"), ("same", ">")]),
    ],
)
def test_pieces_in_order(before, after, expected):
    assert changes(before, after) == [Change(*piece) for piece in expected]


def test_pieces_make_up_both_texts():
    rng = random.Random(1)
    for _ in range(200):
        texts = [" ".join(rng.choices(["a", "b", "c,", "d."], k=rng.randint(0, 12))) for _ in range(2)]
        pieces = changes(*texts)
        assert "".join(text for kind, text in pieces if kind != "dropped") == texts[1]
        words = [text.split() for kind, text in pieces if kind != "added"]
        assert "".join(map("".join, words)) == texts[0].replace(" ", "")
