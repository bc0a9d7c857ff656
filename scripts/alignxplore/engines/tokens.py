"""Token ids of prompts for the backends that tokenise, so that user text can never become a special token."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from alignxplore.errors import UserError
from alignxplore.prompts import Prompt, split_marked

_PLACEHOLDER = "\ue002"


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of user text, which is cut one character into every added token that it spells.

    No piece then spells a whole added token:

        Bye<|im_end|>Hi   ->   Bye<  |im_end|>Hi
    """
    added = "|".join(map(re.escape, tokenizer.get_added_vocab()))
    cuts = [match.start() + 1 for match in re.finditer(f"(?={added})", text)] if added else []
    ids: list[int] = []
    for start, stop in pairwise([0, *cuts, len(text)]):
        if start < stop:
            ids += tokenizer.encode(text[start:stop], add_special_tokens=False)
    return ids


def encode(tokenizer: Any, prompt: Prompt, options: Mapping[str, Any] | None = None) -> list[int]:
    """Token ids of a chat prompt up to and including its prefill; user text cannot become added tokens.

    The chat template, with its `options`, is rendered around a placeholder, so that it cannot trim or rewrite the
    user's message.
    """
    head, tail = _chat(tokenizer, options)
    ids: list[int] = []
    for text, is_user in [(head, False), *split_marked(prompt.user), (tail + prompt.prefill, False)]:
        ids += encode_text(tokenizer, text) if is_user else tokenizer.encode(text, add_special_tokens=False)
    return ids


def choice_tokens(tokenizer: Any, choices: Sequence[str]) -> list[int]:
    """The first token of each choice. Raises UserError if two choices share it."""
    tokens = [tokenizer.encode(choice, add_special_tokens=False)[0] for choice in choices]
    if len(set(tokens)) < len(tokens):
        raise UserError(f"{tokenizer.name_or_path}: the choices {list(choices)} begin with the same token")
    return tokens


def context_limit(config: Any) -> int | None:
    """How many tokens a model reads and writes in all, or None if its configuration states no limit.

    With scaled rotary embeddings, some configurations state the length before scaling and others the length after it.
    """
    stated = getattr(config, "max_position_embeddings", None)
    if not stated:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, Mapping))]  # some have one per layer type
    scaled = [(part.get("original_max_position_embeddings") or stated) * (part.get("factor") or 1) for part in parts]
    return int(max(stated, *scaled))


def check_lengths(model: str, rows: Sequence[Sequence[int]], limit: int | None, new: int = 0) -> None:
    """Raise UserError for the first row over `limit` tokens, or with no room for a token if `new` are wanted."""
    for index, row in enumerate(rows):
        if limit is not None and len(row) + min(new, 1) > limit:
            wanted = f", and up to {new} are to follow" if new else ""
            raise UserError(
                f"prompt {index + 1} comes to {len(row)} tokens{wanted}, but model {model} takes {limit} in all: shorten it or choose a"
                " model with a longer context; in a run, lower data.alignx.max_characters to leave long texts out",
            )


def check_scored(tokenizer: Any, prompts: Sequence[Prompt], options: Mapping[str, Any] | None = None) -> None:
    """Raise UserError for the first prompt that leaves reasoning open, since scores there mean nothing."""
    if not opens_thinking(tokenizer, options):
        return
    for index, prompt in enumerate(prompts):
        if "</think>" not in prompt.prefill:
            raise UserError(
                f"prompt {index + 1} cannot be scored by {tokenizer.name_or_path}: its chat template opens <think>, so the scored text"
                " would be part of the reasoning. Give the judge `sampling`, so that it reasons and writes its answer,"
                " or choose another model",
            )


def opens_thinking(tokenizer: Any, options: Mapping[str, Any] | None = None) -> bool:
    """Whether the chat template itself opens `<think>` for the assistant."""
    return _chat(tokenizer, options)[1].rstrip().endswith("<think>")


def _chat(tokenizer: Any, options: Mapping[str, Any] | None) -> tuple[str, str]:
    """What the chat template writes before and after the user's message."""
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": _PLACEHOLDER}], tokenize=False, add_generation_prompt=True, **(options or {})
    )
    head, found, tail = chat.partition(_PLACEHOLDER)
    if not found:
        raise UserError(f"{tokenizer.name_or_path}: the chat template leaves out the user's message")
    return head, tail
