"""The vLLM backend, in this process; vLLM does the batching, prefix sharing and tensor parallelism."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from vllm import LLM, SamplingParams
from vllm.platforms import current_platform

from alignxplore.engines.base import Completion, Sampling
from alignxplore.engines.tokens import check_lengths, check_scored, choice_tokens, encode, encode_text, opens_thinking
from alignxplore.formats import normalise_thinking
from alignxplore.prompts import Prompt

_REQUESTS_AT_ONCE = 2048
"""Requests handed to vLLM at a time. Their answers reach the journal together."""


class VLLMBackend:
    """A causal language model run by vLLM, split over `gpu` GPUs.

    `chat_template` holds options for the model's chat template. Prompt and completion together are limited to
    `max_model_len` tokens, or to the model's own context.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: str = "auto",
        gpu: int = 1,
        max_model_len: int | None = None,
        chat_template: Mapping[str, Any] | None = None,
    ):
        self.path = path
        self.llm = LLM(
            model=path,
            revision=revision,
            tokenizer_revision=revision,
            dtype=dtype,
            tensor_parallel_size=max(gpu, 1),
            max_model_len=max_model_len,
            # After a chunk of a prompt, vLLM rewinds the request's random generator. CPU generators cannot be rewound.
            enable_chunked_prefill=not current_platform.is_cpu(),
            trust_remote_code=False,
        )
        self.tokenizer: Any = self.llm.get_tokenizer()
        self.chat_template = chat_template

    def _run(
        self,
        rows: Sequence[list[int]],
        parameters: SamplingParams | Sequence[SamplingParams],
        done: Collection[int],
        new: int = 1,
    ) -> Iterator[list[tuple[int, Any]]]:
        """Yield (index, vLLM's output) of the rows that are not done, in the order of the rows."""
        check_lengths(self.path, rows, self.llm.model_config.max_model_len, new)
        for start in range(0, len(rows), _REQUESTS_AT_ONCE):
            indices = [i for i in range(start, min(start + _REQUESTS_AT_ONCE, len(rows))) if i not in done]
            asked = parameters if isinstance(parameters, SamplingParams) else [parameters[i] for i in indices]
            if indices:
                outputs = self.llm.generate([{"prompt_token_ids": rows[i]} for i in indices], asked)
                yield list(zip(indices, outputs, strict=True))

    def _encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [encode(self.tokenizer, prompt, self.chat_template) for prompt in prompts]

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], sampling: Sampling, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Completion]]]:
        """One completion per prompt."""
        rows = self._encode(prompts)
        opened = opens_thinking(self.tokenizer, self.chat_template)
        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_new_tokens,
                seed=seed,
                stop=list(sampling.stop),
                logprobs=0,
                skip_special_tokens=False,
            )
            for seed in seeds
        ]
        for batch in self._run(rows, parameters, done, sampling.max_new_tokens):
            answers = []
            for index, output in batch:
                result = output.outputs[0]
                # vLLM drops the stop text. Its option to keep it would keep the end-of-turn token as well.
                stop = result.stop_reason if isinstance(result.stop_reason, str) else ""
                logprobs = (step[token].logprob for step, token in zip(result.logprobs, result.token_ids, strict=True))
                completion = Completion(
                    text=normalise_thinking(result.text + stop, opened=opened),
                    finish_reason="stop" if result.finish_reason == "stop" else "length",
                    prompt_tokens=len(rows[index]),
                    completion_tokens=len(result.token_ids),
                    logprobs=tuple(round(value, 5) for value in logprobs),
                )
                answers.append((index, completion))
            yield answers

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Log-probability, in nats, of the first token of each choice after each prompt."""
        tokens = choice_tokens(self.tokenizer, choices)
        check_scored(self.tokenizer, prompts, self.chat_template)
        parameters = SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=tokens)
        for batch in self._run(self._encode(prompts), parameters, done):
            yield [
                (index, [output.outputs[0].logprobs[0][token].logprob for token in tokens]) for index, output in batch
            ]

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, tuple[float, int]]]]:
        """For each prompt, the log-likelihood of its continuation in nats and the continuation's number of tokens."""
        check_scored(self.tokenizer, prompts, self.chat_template)
        heads = self._encode(prompts)
        tails = [encode_text(self.tokenizer, text) for text in continuations]
        rows = [head + tail for head, tail in zip(heads, tails, strict=True)]
        parameters = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        for batch in self._run(rows, parameters, done):
            answers = []
            for index, output in batch:
                places = range(len(heads[index]), len(rows[index]))
                total = sum(output.prompt_logprobs[place][rows[index][place]].logprob for place in places)
                answers.append((index, (total, len(tails[index]))))
            yield answers


def start(**options: Any) -> VLLMBackend:
    """The backend of a `models` entry."""
    return VLLMBackend(**options)
