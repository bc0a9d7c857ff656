"""Any OpenAI-compatible chat endpoint: the paper's GPT-4 and DeepSeek-R1, or a model that vLLM serves."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai

from alignxplore.engines.base import Completion, Sampling, choice_logprobs_from_top
from alignxplore.errors import UserError
from alignxplore.prompts import JUDGE_PREFILL, Prompt, strip_markers

TOP_LOGPROBS = 20
ANSWER_TOKENS = 2048


class OpenAIEngine:
    """A served model; `path` is its name there, `key_env` the environment variable that holds the key.

    The client retries rate limits, server errors, timeouts and lost connections with growing waits, as the server
    asks in Retry-After. Endpoints tokenise for themselves, so user text is sent as plain text.
    """

    def __init__(
        self,
        path: str,
        base_url: str | None = None,
        key_env: str | None = None,
        concurrency: int = 16,
        timeout: float = 600.0,
        retries: int = 8,
    ):
        key = os.environ.get(key_env) if key_env else "none"
        if not key:
            raise UserError(f"model {path}: the environment variable {key_env} with its key is not set")
        self.client = openai.OpenAI(api_key=key, base_url=base_url, timeout=timeout, max_retries=retries)
        self.path = path
        self.concurrency = concurrency

    def _ask(self, prompts: Sequence[Prompt], options: Sequence[dict[str, Any]]) -> list[Any]:
        def one(prompt: Prompt, settings: dict[str, Any]) -> Any:
            message: Any = {"role": "user", "content": strip_markers(prompt.user)}
            try:
                return self.client.chat.completions.create(model=self.path, messages=[message], **settings)
            except openai.OpenAIError as error:
                raise UserError(f"model {self.path} at {self.client.base_url}: {error}") from error

        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(one, prompts, options))

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """One sampled completion for each prompt; reasoning in a field of its own is set between think tags."""
        options = [
            {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens,
                "seed": sampling.seed + index,
            }
            for index in range(len(prompts))
        ]
        results = []
        for reply in self._ask(prompts, options):
            choice = reply.choices[0]
            text = choice.message.content or ""
            reasoning = getattr(choice.message, "reasoning_content", None) or getattr(choice.message, "reasoning", None)
            results.append(
                Completion(
                    text=f"<think>{reasoning}</think>{text}" if reasoning else text,
                    finish_reason="length" if choice.finish_reason == "length" else "stop",
                    prompt_tokens=reply.usage.prompt_tokens,
                    completion_tokens=reply.usage.completion_tokens,
                )
            )
        return results

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """Log-probabilities of the choices where the reply, greedily written, makes its selection.

        Chat endpoints cannot begin a reply, so the reply is asked for, and the place of the choice sought in it.
        """
        options = {"temperature": 0, "max_tokens": ANSWER_TOKENS, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return np.array([self._selection(reply, choices) for reply in self._ask(prompts, [options] * len(prompts))])

    def _selection(self, reply: Any, choices: Sequence[str]) -> list[float]:
        stem = JUDGE_PREFILL.rsplit(maxsplit=1)[-1].strip('"')
        text = ""
        for token in reply.choices[0].logprobs.content or []:
            if text.endswith(stem) and token.token in choices:
                return choice_logprobs_from_top({top.token: top.logprob for top in token.top_logprobs}, choices)
            text += token.token
        raise UserError(f"model {self.path}: a reply selects no response: {text[:200]!r}")

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[tuple[float, int]]:
        """Not offered: chat endpoints do not score given text."""
        raise UserError(f"model {self.path}: a chat endpoint cannot score responses; R_gen needs another engine")
