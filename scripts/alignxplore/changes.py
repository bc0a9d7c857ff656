"""What changed from one text to the next, word by word."""

import difflib
import re
from typing import Literal, NamedTuple

_TOKEN = re.compile(r"(\w[\w'’-]*|[^\w\s])(\s*)")


class Change(NamedTuple):
    """A piece of text that is in both texts, only in the new one, or only in the old one."""

    kind: Literal["same", "added", "dropped"]
    text: str


def changes(before: str, after: str) -> list[Change]:
    """The pieces of both texts in order. Those that are the same or added make up `after`, without outer whitespace.

    before  Likes long walks.
    after   Likes quiet walks.      same "Likes ", dropped "long ", added "quiet ", same "walks."
    """
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    found: list[Change] = []
    matcher = difflib.SequenceMatcher(None, [word for word, _ in old], [word for word, _ in new], autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            found.append(Change("same", _text(new[j1:j2])))
            continue
        if i1 < i2:
            found.append(Change("dropped", _text(old[i1:i2])))
        if j1 < j2:
            found.append(Change("added", _text(new[j1:j2])))
    return found


def _text(tokens: list[tuple[str, str]]) -> str:
    return "".join(map("".join, tokens))
