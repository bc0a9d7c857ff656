"""How a server's reply is read. Servers differ; only the text is needed, and whether it was cut off."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignxplore.engines.base import Completion
from alignxplore.engines.failures import BadReply, EmptyReply, NoAnswer, Unusable
from alignxplore.formats import Thoughts, normalise_thinking

_BLANK = re.compile(r"\s")
_CUT_OFF = ("length", "max_tokens", "model_length")
_FAILED = ("error", "abort")

_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)

_SAME = 0.25
"""Nats by which a served log-probability may differ between two requests, since servers compute in batches."""


class Token(NamedTuple):
    """A token of a reply, its log-probability, and those of the likeliest tokens at its place."""

    text: str
    logprob: float
    top: dict[str, float]


def completion(reply: Any, stops: Sequence[str], opens_thinking: bool, thoughts: Thoughts | None) -> Completion:
    """The completion of a chat reply, which ends after the first of the `stops`. Unknown token counts are 0."""
    choice, text = _choice(reply)
    message = choice["message"]
    reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))
    cut_off = choice.get("finish_reason") in _CUT_OFF
    if not text and not reasoning and not cut_off:
        raise EmptyReply("the reply is empty")
    for stop in stops:
        before, found, _ = text.partition(stop)
        # Endpoints drop the stop text, and few name it. If the reply opened <answer> and lacks </answer>, it stopped
        # there: put it back.
        opened = stop.replace("/", "") in text and choice.get("stop_reason") in (None, stop)
        if found or (opened and not cut_off):
            text, cut_off = before + stop, cut_off and not found
    prompt_tokens, completion_tokens = usage(reply)
    return Completion(
        text=normalise_thinking(text, reasoning, opens_thinking or None, thoughts),
        finish_reason="length" if cut_off else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        logprobs=_logprobs(choice.get("logprobs")),
    )


def usage(reply: Any) -> tuple[int, int]:
    """The tokens of the prompt and of the completion that a server counts; 0 where it does not say."""
    counts = reply.get("usage") or {}
    return _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))


def selection(reply: Any, prefill: str, choices: Sequence[str]) -> tuple[float, ...]:
    """Log-probabilities of the choices at the last place where the reply continues `prefill`, ignoring white space."""
    wanted = _BLANK.sub("", prefill)
    text, found = "", None
    for token in tokens(reply):
        if token.text.strip() in [choice.strip() for choice in choices] and _BLANK.sub("", text).endswith(wanted):
            found = token.top
        text += token.text
    if found is None:
        raise NoAnswer("the reply selects no response")
    return chosen(found, choices)


def chosen(top: Mapping[str, float], choices: Sequence[str]) -> tuple[float, ...]:
    """Log-probabilities of the choices among the likeliest tokens at a place.

    Some servers drop the space that begins a token, so a choice is looked for with it and then without it. One that is
    not there gets the least of the log-probabilities, an upper bound. Raises NoAnswer if none is there.
    """
    spelled = [_spelled(choice) for choice in choices]
    found = [top.get(choice, top.get(choice.strip())) for choice in spelled]
    if all(value is None for value in found):
        raise NoAnswer("none of the choices is among the likeliest tokens")
    return tuple(min(top.values()) if value is None else value for value in found)


def tokens(reply: Any) -> list[Token]:
    """The tokens of a reply. Raises Unusable if it has text and no log-probabilities."""
    choice, text = _choice(reply)
    try:
        found = _tokens(choice.get("logprobs"))
    except _UNREADABLE:
        raise Unusable("its log-probabilities have an unknown form; set logprobs: false") from None
    if not any(token.top for token in found) and (found or (text and not choice.get("logprobs"))):
        raise Unusable(
            "it returns no log-probabilities of the likeliest tokens; set logprobs: false and give the judge sampling"
        )
    return found


def first(reply: Any) -> dict[str, float]:
    """Log-probabilities of the likeliest tokens with which a reply begins."""
    found = tokens(reply)
    if not found:
        raise NoAnswer("the reply ends at once")
    return found[0].top


def alike(some: Sequence[Token], others: Sequence[Token]) -> bool:
    """Whether two replies consist of the same tokens with the same probabilities."""
    return [token.text for token in some] == [token.text for token in others] and all(
        abs(one.top[text] - other.top[text]) < _SAME
        for one, other in zip(some, others, strict=True)
        for text in sorted(one.top, key=one.top.__getitem__)[-5:]
        if text in other.top
    )


def prompt_logprobs(reply: Any, ids: Sequence[int]) -> list[float]:
    """The log-probability of each token of a prompt, the first one's being 0. Raises NoAnswer if they are missing."""
    choice = reply["choices"][0]
    if scored := choice.get("prompt_logprobs"):
        found = [entry and entry[str(token)]["logprob"] for entry, token in zip(scored, ids, strict=True)]
    else:
        found = ((choice.get("logprobs") or {}).get("token_logprobs") or [])[: len(ids)]
    if len(found) < len(ids) or None in found[1:]:
        raise NoAnswer("the reply has no log-probabilities of the prompt")
    return [0.0, *found[1:]]


def _choice(reply: Any) -> tuple[dict[str, Any], str]:
    """The choice of a chat or text reply and its text. Raises NoAnswer if the server filters or declines it."""
    choice = reply["choices"][0]
    message = choice.get("message") or {}
    reason = choice.get("finish_reason")
    if reason in _FAILED:
        raise BadReply(f"the reply has the finish reason {reason!r}")
    if reason == "content_filter":
        raise NoAnswer("finish reason content_filter")
    if message.get("refusal"):
        raise NoAnswer("the reply is a refusal")
    return choice, _text(message["content"] if "message" in choice else choice["text"])


def _text(content: Any) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, list):
        return "".join(_text(part["text"]) for part in content if part.get("type", "text") == "text")
    if content is not None and not isinstance(content, str):
        raise BadReply("the reply has no text")
    return content or ""


def _logprobs(logprobs: Any) -> tuple[float, ...]:
    """The log-probabilities of a completion, or none: an answer is not thrown away for them."""
    try:
        return tuple(round(logprob, 5) for _, logprob, _ in _tokens(logprobs))
    except _UNREADABLE:
        return ()


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _tokens(logprobs: Any) -> list[Token]:
    """Tokens in the form of chat replies, which some servers also use for text, or of text replies."""
    if not logprobs:
        return []
    if "content" in logprobs:
        entries = logprobs["content"] or []
        tops = [[(top["token"], top["logprob"]) for top in entry.get("top_logprobs") or []] for entry in entries]
        return [Token(_spelled(e["token"]), e["logprob"], _top(top)) for e, top in zip(entries, tops, strict=True)]
    likeliest = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    return [
        Token(_spelled(token), logprob, _top((top or {}).items()))
        for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], likeliest, strict=True)
    ]


def _top(pairs: Any) -> dict[str, float]:
    """Log-probabilities by token; of two tokens that are spelled alike, the likelier one's."""
    top: dict[str, float] = {}
    for token, logprob in pairs:
        spelled = _spelled(token)
        top[spelled] = max(logprob, top.get(spelled, logprob))
    return top


def _spelled(token: str) -> str:
    """A token as text; some servers return it as the vocabulary spells it, with a sign for the space that begins it."""
    return token.replace("Ġ", " ").replace("▁", " ")
