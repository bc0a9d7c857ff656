"""Token ids of prompts, in which user text has no power: shared by the backends that run a model themselves."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from alignxplore.engines.base import PromptRefused
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt, split_marked

_CHAT_MARK = "\ue002"


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Ids of text from a user: cut inside whatever reads like an added token, so that none is ever made of it."""
    added = "|".join(map(re.escape, tokenizer.get_added_vocab()))
    cuts = [match.start() + 1 for match in re.finditer(f"(?={added})", text)] if added else []
    ids: list[int] = []
    for start, stop in pairwise([0, *cuts, len(text)]):
        if start < stop:
            ids += tokenizer.encode(text[start:stop], add_special_tokens=False)
    return ids


def encode(tokenizer: Any, prompt: Prompt, options: Mapping[str, Any] | None = None) -> list[int]:
    """Ids of a chat prompt up to and including its prefill; user text cannot make added or special tokens.

    The chat template, with its own `options`, is applied to a mark in place of the text, so no template can trim or
    rewrite the text either.
    """
    head, tail = _chat(tokenizer, options)
    ids: list[int] = []
    for text, is_user in [(head, False), *split_marked(prompt.user), (tail + prompt.prefill, False)]:
        ids += encode_text(tokenizer, text) if is_user else tokenizer.encode(text, add_special_tokens=False)
    return ids


def choice_tokens(tokenizer: Any, choices: Sequence[str]) -> list[int]:
    """The first token of each choice; raises UserError where two begin with the same."""
    tokens = [tokenizer.encode(choice, add_special_tokens=False)[0] for choice in choices]
    if len(set(tokens)) < len(tokens):
        raise UserError(f"{tokenizer.name_or_path}: the choices {list(choices)} begin with the same token")
    return tokens


def context_limit(config: Any) -> int | None:
    """Tokens that a model of this configuration reads and writes in all, or None where it states no limit.

    Where rotary embeddings are scaled, some configurations state the length before, others that behind.
    """
    stated = getattr(config, "max_position_embeddings", None)
    if not stated:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [
        rope,
        *(part for part in rope.values() if isinstance(part, Mapping)),
    ]  # some have one for each kind of layer
    scaled = [(part.get("original_max_position_embeddings") or stated) * (part.get("factor") or 1) for part in parts]
    return int(max(stated, *scaled))


def check_lengths(model: str, rows: Sequence[Sequence[int]], limit: int | None, new: int = 0) -> None:
    """Raise PromptRefused for the first row that leaves, of `limit` tokens, no room for one of `new` tokens."""
    for index, row in enumerate(rows):
        if limit is not None and len(row) + min(new, 1) > limit:
            wanted = f", and up to {new} are to follow" if new else ""
            raise PromptRefused(
                index,
                f"comes to {len(row)} tokens{wanted}, but model {model} takes {limit} in all: shorten it, or choose a"
                " model that takes more; in a run, data.alignx.max_characters leaves long texts out",
            )


def check_scored(tokenizer: Any, prompts: Sequence[Prompt], options: Mapping[str, Any] | None = None) -> None:
    """Raise PromptRefused for the first prompt whose continuation would be scored inside an open thought."""
    if not opens_thinking(tokenizer, options):
        return
    for index, prompt in enumerate(prompts):
        if "</think>" not in prompt.prefill:
            raise PromptRefused(
                index,
                f"cannot be scored by {tokenizer.name_or_path}, whose chat template opens <think>, so that what follows"
                " would stand inside a thought: give the judge `sampling`, so that it thinks and writes its answer, or"
                " choose another model",
            )


def opens_thinking(tokenizer: Any, options: Mapping[str, Any] | None = None) -> bool:
    """Whether the chat template itself opens `<think>` for the assistant."""
    return _chat(tokenizer, options)[1].rstrip().endswith("<think>")


def _chat(tokenizer: Any, options: Mapping[str, Any] | None) -> tuple[str, str]:
    """What the chat template sets before and behind the user's message."""
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": _CHAT_MARK}], tokenize=False, add_generation_prompt=True, **(options or {})
    )
    head, found, tail = chat.partition(_CHAT_MARK)
    if not found:
        raise UserError(f"{tokenizer.name_or_path}: the chat template leaves the user's message out")
    return head, tail
