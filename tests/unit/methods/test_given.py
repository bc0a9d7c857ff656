"""Methods that ask no model."""

from alignxplore.methods.given import GIVEN


def test_signals_hold_pairs_and_comments():
    pair = {"prompt": "Any advice?", "chosen": "Try jazz.", "rejected": "Use earplugs."}
    comment = {"prompt": "A bad cold.", "comment": "Have some soup."}
    assert GIVEN["signals"]({"pairs": [pair], "ugc": [comment]}) == (
        "1. Post: Any advice?\nChosen: Try jazz.\nRejected: Use earplugs.\n"
        "2. Post: A bad cold.\nComment: Have some soup."
    )
