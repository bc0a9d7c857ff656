"""The format of a completion: reasoning between think tags, then the description between answer tags (Eq. 4)."""

import re
from dataclasses import dataclass
from typing import Literal

Thinking = Literal["tags", "template", "none"]
"""Where a model's reasoning begins: it writes the tag, its chat template has opened it, or it does not reason."""

_TAG = re.compile(r"</?(?:think|answer)>")
_WELL_FORMED = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


@dataclass(frozen=True)
class Parsed:
    """What a completion says; `format_ok` is R_format."""

    reasoning: str
    preference: str
    format_ok: bool


def render_completion(reasoning: str, preference: str) -> str:
    """The canonical completion for a reasoning chain r and a description d."""
    return f"<think>\n{reasoning}\n</think>\n<answer>\n{preference}\n</answer>"


def parse_completion(text: str, finish_reason: str, thinking: Thinking = "tags") -> Parsed:
    """Split a completion into r and d.

    R_format holds if there is exactly one closed think block followed by one closed answer block, neither empty, and
    generation finished by itself. Otherwise the description is what a reader would take for it, so that
    evaluation can still judge it.
    """
    finished = finish_reason == "stop"
    if thinking == "none":
        preference = _inside(text, "answer").strip()
        return Parsed("", preference, finished and bool(preference))
    if thinking == "template":
        text = "<think>" + text
    match = _WELL_FORMED.fullmatch(text)
    if match and len(_TAG.findall(text)) == 4:
        reasoning, preference = (part.strip() for part in match.groups())
        return Parsed(reasoning, preference, finished and bool(reasoning) and bool(preference))
    head, closed, tail = text.partition("</think>")
    if not closed:
        return Parsed("", _TAG.sub("", _inside(text, "answer")).strip(), False)
    return Parsed(_TAG.sub("", head).strip(), _TAG.sub("", _inside(tail, "answer")).strip(), False)


def _inside(text: str, tag: str) -> str:
    """What stands between the first `tag` and its end, or `text` where there is no such tag."""
    _, opened, rest = text.partition(f"<{tag}>")
    return rest.partition(f"</{tag}>")[0] if opened else text
