"""Methods that ask no model."""

from alignxplore.methods.given import GIVEN


def test_signals_hold_pairs_and_comments():
    pair = {"prompt": "Any advice?", "chosen": "Try jazz.", "rejected": "Use earplugs."}
    comment = {"prompt": "A bad cold.", "comment": "Have some soup."}
    assert GIVEN["signals"]({"pairs": [pair], "ugc": [comment]}) == (
        "1. Post: Any advice?\nChosen: Try jazz.\nRejected: Use earplugs.\n"
        "2. Post: A bad cold.\nComment: Have some soup."
    )


def test_liked_holds_chosen_texts_and_comments_alone():
    pairs = [{"prompt": "p", "chosen": text, "rejected": f"not {text}"} for text in ("Try jazz.", "Some tea.")]
    comment = {"prompt": "A bad cold.", "comment": "Have some soup."}
    assert GIVEN["liked"]({"pairs": pairs, "ugc": [comment]}) == "Try jazz.\nSome tea.\nHave some soup."
