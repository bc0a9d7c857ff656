"""The vLLM engine, in this process: batching, prefix sharing and tensor parallelism are vLLM's own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from vllm import LLM, SamplingParams

from alignxplore.engines.base import Completion, Sampling, choice_logprobs_from_top
from alignxplore.engines.tokens import encode, encode_text
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt

TOP_LOGPROBS = 20


class VLLMEngine:
    """A causal language model run by vLLM; `gpu` GPUs share its layers."""

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: str = "auto",
        gpu: int = 1,
        max_model_len: int | None = None,
    ):
        self.llm = LLM(
            model=path,
            revision=revision,
            tokenizer_revision=revision,
            dtype=dtype,
            tensor_parallel_size=max(gpu, 1),
            max_model_len=max_model_len,
            max_logprobs=TOP_LOGPROBS,
            trust_remote_code=False,
        )
        self.tokenizer: Any = self.llm.get_tokenizer()

    def _run(self, rows: Sequence[list[int]], parameters: SamplingParams | list[SamplingParams]) -> list[Any]:
        return self.llm.generate([{"prompt_token_ids": row} for row in rows], parameters)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """One sampled completion for each prompt; each prompt draws from its own seed."""
        rows = [encode(self.tokenizer, prompt) for prompt in prompts]
        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_new_tokens,
                seed=sampling.seed + index,
                skip_special_tokens=False,
            )
            for index in range(len(rows))
        ]
        return [
            Completion(
                text=output.outputs[0].text,
                finish_reason="stop" if output.outputs[0].finish_reason == "stop" else "length",
                prompt_tokens=len(row),
                completion_tokens=len(output.outputs[0].token_ids),
            )
            for row, output in zip(rows, self._run(rows, parameters), strict=True)
        ]

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """Log-probability of each choice's first token after each prompt: (prompts, choices), in nats.

        A choice outside the most probable tokens gets the least probability among them, an upper bound.
        """
        tokens = [self.tokenizer.encode(choice, add_special_tokens=False)[0] for choice in choices]
        if len(set(tokens)) < len(tokens):
            raise UserError(f"the choices {list(choices)} begin with the same token")
        rows = [encode(self.tokenizer, prompt) for prompt in prompts]
        outputs = self._run(rows, SamplingParams(temperature=0, max_tokens=1, logprobs=TOP_LOGPROBS))
        tops = [{token: item.logprob for token, item in out.outputs[0].logprobs[0].items()} for out in outputs]
        return np.array([choice_logprobs_from_top(top, tokens) for top in tops])

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[tuple[float, int]]:
        """Sum of the continuation's token log-probabilities in nats, and its number of tokens, for each prompt."""
        heads = [encode(self.tokenizer, prompt) for prompt in prompts]
        tails = [encode_text(self.tokenizer, text) for text in continuations]
        rows = [head + tail for head, tail in zip(heads, tails, strict=True)]
        outputs = self._run(rows, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))
        return [
            (sum(output.prompt_logprobs[place][row[place]].logprob for place in range(len(head), len(row))), len(tail))
            for row, head, tail, output in zip(rows, heads, tails, outputs, strict=True)
        ]
