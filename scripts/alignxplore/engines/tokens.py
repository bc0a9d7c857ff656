"""Token ids of prompts, in which user text has no power: shared by the engines that run a model themselves."""

from typing import Any

from alignxplore.errors import UserError
from alignxplore.prompts import Prompt, split_marked

_CHAT_MARK = "\ue002"


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Ids of text from a user: cut inside whatever reads like an added token, so that none is ever made of it."""
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    ids: list[int] = []
    start = position = 0
    while position < len(text):
        if any(text.startswith(token, position) for token in added):
            ids += tokenizer.encode(text[start : position + 1], add_special_tokens=False)
            start = position + 1
        position += 1
    return ids + tokenizer.encode(text[start:], add_special_tokens=False) if text[start:] else ids


def encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Ids of a chat prompt up to and including its prefill; user text cannot make added or special tokens.

    The chat template is applied to a mark in place of the text, so no template can trim or rewrite the text either.
    """
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": _CHAT_MARK}], tokenize=False, add_generation_prompt=True
    )
    head, found, tail = chat.partition(_CHAT_MARK)
    if not found:
        raise UserError(f"{tokenizer.name_or_path}: the chat template leaves the user's message out")
    ids: list[int] = []
    for text, is_user in [(head, False), *split_marked(prompt.user), (tail + prompt.prefill, False)]:
        ids += encode_text(tokenizer, text) if is_user else tokenizer.encode(text, add_special_tokens=False)
    return ids
