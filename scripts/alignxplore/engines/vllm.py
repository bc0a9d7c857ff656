"""The vLLM backend, in this process; vLLM does the batching, prefix sharing and tensor parallelism."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# FlashInfer's sampler is compiled when vLLM starts, which fails without nvcc. Requests with seeds never use it.
os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402

from alignxplore import adapters  # noqa: E402
from alignxplore.engines.base import Choice, Completion, Likelihood, Refused, Sampling  # noqa: E402
from alignxplore.engines.tokens import TEMPLATE_DATE, ChatTokenizer, too_long  # noqa: E402
from alignxplore.errors import UserError  # noqa: E402
from alignxplore.prompts import Prompt  # noqa: E402

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The highest ranks of adapters that vLLM can be told to expect."""

_REQUESTS_AT_ONCE = 2048
"""Requests handed to vLLM at a time. Their answers reach the journal together."""


class VLLMBackend:
    """A causal language model run by vLLM, split over `gpu` GPUs.

    `chat_template`, `today` and `thoughts` are those of ChatTokenizer. Prompt and completion together are limited to
    `max_model_len` tokens, or to the model's own context. vLLM computes the product with an adapter's matrices beside
    that with the weights, in the model's `dtype`.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: str = "auto",
        gpu: int = 1,
        max_model_len: int | None = None,
        chat_template: str | Mapping[str, Any] | None = None,
        today: str = TEMPLATE_DATE,
        thoughts: str | Mapping[str, str] | None = None,
        adapter: str | None = None,
    ):
        self.path = path
        found = adapters.source(path, revision, adapter)
        tokenizer, tokenizer_revision = adapters.tokenizer_source(found)
        self.llm = LLM(
            model=found.base,
            revision=found.revision,
            tokenizer=tokenizer,
            tokenizer_revision=tokenizer_revision,
            **({} if found.adapter is None else _lora_options(found.adapter)),
            dtype=dtype,
            tensor_parallel_size=max(gpu, 1),
            max_model_len=max_model_len,
            # After a chunk of a prompt, vLLM rewinds the request's random generator. CPU generators cannot be rewound.
            enable_chunked_prefill=not current_platform.is_cpu(),
            # In bfloat16, logits come in steps of an eighth of a nat, and judgements tie.
            hf_overrides={"head_dtype": "float32"},
            trust_remote_code=False,
        )
        self.chat = ChatTokenizer(self.llm.get_tokenizer(), chat_template, today, thoughts)
        self.limit = self.llm.model_config.max_model_len
        self.lora = None if found.adapter is None else LoRARequest("adapter", 1, str(Path(found.adapter).absolute()))

    def _run(
        self,
        rows: Sequence[list[int]],
        parameters: Sequence[SamplingParams],
        done: Collection[int],
        refused: Collection[int],
    ) -> Iterator[list[tuple[int, Any]]]:
        """Yield (index, vLLM's output) of the rows that are neither done nor refused, in the order of the rows."""
        for start in range(0, len(rows), _REQUESTS_AT_ONCE):
            indices = [
                i for i in range(start, min(start + _REQUESTS_AT_ONCE, len(rows))) if i not in done and i not in refused
            ]
            if indices:
                outputs = self.llm.generate(
                    [{"prompt_token_ids": rows[i]} for i in indices],
                    [parameters[i] for i in indices],
                    use_tqdm=False,
                    lora_request=self.lora,
                )
                yield list(zip(indices, outputs, strict=True))

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], sampling: Sampling, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Completion | Refused]]]:
        """One completion per prompt."""
        rows = [self.chat.encode(prompt) for prompt in prompts]
        refused = too_long(rows, self.limit, sampling.max_new_tokens)
        if refused:
            yield list(refused.items())
        stops = sorted(self.chat.end_tokens(None))  # vLLM adds those of the generation config
        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_new_tokens,
                seed=seed,
                stop=list(sampling.stop),
                stop_token_ids=stops,
                logprobs=0,
                skip_special_tokens=False,
            )
            for seed in seeds
        ]
        for batch in self._run(rows, parameters, done, refused):
            answers: list[tuple[int, Completion | Refused]] = []
            for index, output in batch:
                result = output.outputs[0]
                # vLLM drops the stop text. Its option to keep it would keep the end-of-turn token as well.
                stop = result.stop_reason if isinstance(result.stop_reason, str) else ""
                logprobs = (step[token].logprob for step, token in zip(result.logprobs, result.token_ids, strict=True))
                completion = Completion(
                    text=self.chat.normalised(result.text + stop),
                    finish_reason="stop" if result.finish_reason == "stop" else "length",
                    prompt_tokens=len(rows[index]),
                    completion_tokens=len(result.token_ids),
                    logprobs=tuple(round(value, 5) for value in logprobs),
                )
                answers.append((index, completion))
            yield answers

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Choice | Refused]]]:
        """For each prompt, the log-probabilities of the tokens of the choices (see `ChatTokenizer.choices`)."""
        encoded = self.chat.encode_choosing(prompts, choices)
        rows, tokens = [row for row, _ in encoded], [own for _, own in encoded]
        refused = too_long(rows, self.limit, 1)
        if refused:
            yield list(refused.items())
        parameters = [SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=asked) for asked in tokens]
        for batch in self._run(rows, parameters, done, refused):
            answers: list[tuple[int, Choice | Refused]] = []
            for index, output in batch:
                found = output.outputs[0].logprobs[0]
                chosen = tuple(found[token].logprob for token in tokens[index])
                answers.append((index, Choice(chosen, len(rows[index]), completion_tokens=1)))
            yield answers

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Likelihood | Refused]]]:
        """For each prompt, the log-likelihood of its continuation."""
        answered = self.chat.encode_scored(prompts, continuations)
        rows = [row for row, _ in answered]
        refused = too_long(rows, self.limit, 1)
        if refused:
            yield list(refused.items())
        parameters = [SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)] * len(rows)
        for batch in self._run(rows, parameters, done, refused):
            answers: list[tuple[int, Likelihood | Refused]] = []
            for index, output in batch:
                row, start = answered[index]
                total = sum(output.prompt_logprobs[place][row[place]].logprob for place in range(start, len(row)))
                answers.append((index, Likelihood(total, len(row) - start, len(row), completion_tokens=1)))
            yield answers


def _lora_options(adapter: str) -> dict[str, Any]:
    """vLLM's options for one adapter; UserError if its rank is too high for vLLM."""
    rank = adapters.rank(adapter)
    if rank > max(_RANKS):
        raise UserError(f"adapter {adapter}: vLLM takes ranks of up to {max(_RANKS)}, not {rank}")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(n for n in _RANKS if n >= rank)}


def start(gpu: int = 0, **options: Any) -> VLLMBackend:
    """The backend of a `models` entry; UserError if it asks for GPUs and this is vLLM's CPU build."""
    if gpu and current_platform.is_cpu():
        raise UserError(f"model {options['path']} asks for a GPU (run.gpu: {gpu}), and vLLM finds none here")
    return VLLMBackend(gpu=gpu, **options)
