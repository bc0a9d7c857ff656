"""The transformers backend: prompts of similar length in batches of a token budget, shared beginnings computed once.

Every number is what the model's own forward pass gives: engines/probe.py finds the layout of batches that suits the
model (engines/packing.py or engines/padding.py), or refuses it.
"""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from os.path import commonprefix
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, StopStringCriteria

from alignxplore.engines import packing, padding
from alignxplore.engines.base import Choice, Completion, Likelihood, Refused, Sampling
from alignxplore.engines.probe import find_layout
from alignxplore.engines.tokens import TEMPLATE_DATE, ChatTokenizer, context_limit, too_long
from alignxplore.engines.weights import load_model, load_tokenizer, unsharded
from alignxplore.errors import UserError
from alignxplore.formats import end_of_stop
from alignxplore.prompts import Prompt

MOST_LOGITS = 2**28
"""Up to this many logits of scored text are kept in memory: 1 GiB in float32."""

_CPU_TOKENS = 2048
"""The most tokens per batch of scored rows on a CPU, which gains nothing from more and loses to padding and caches."""

_Rows = Sequence[list[int]]
"""Token ids of prompts, or of prompts with their continuations."""


class TransformersBackend:
    """A causal language model in this process.

    `chat_template`, `today` and `thoughts` are those of ChatTokenizer. An `adapter` is merged into the weights. A
    prompt longer than the model's context is refused. A completion is cut off at the end of the context. Logits are
    computed in float32 whatever the `dtype`, because in bfloat16 they come in steps of an eighth of a nat, and
    judgements tie.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: str = "float32",
        batch_tokens: int = 16384,
        chat_template: str | Mapping[str, Any] | None = None,
        today: str = TEMPLATE_DATE,
        thoughts: str | Mapping[str, str] | None = None,
        adapter: str | None = None,
    ):
        tokenizer = load_tokenizer(path, revision, adapter)
        self.chat = ChatTokenizer(tokenizer, chat_template, today, thoughts)
        with unsharded():
            self.model = load_model(path, tokenizer, revision, adapter, dtype=dtype).eval()
        self.path = path
        self.limit = context_limit(self.model.config.get_text_config())
        self.batch_tokens = batch_tokens
        self.stops = self.chat.end_tokens(self.model.generation_config)
        # `generate` follows this config too, such as its repetition penalty; `Sampling` alone is to decide.
        self.model.generation_config = GenerationConfig()
        if dtype != "float32":
            _compute_logits_in_float32(self.model)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.layout = find_layout(self.model, path)

    def _room(self, row: Sequence[int], sampling: Sampling) -> int:
        """The most tokens that a completion of the row may have."""
        return sampling.max_new_tokens if self.limit is None else min(sampling.max_new_tokens, self.limit - len(row))

    def _batches(self, sizes: Sequence[tuple[int, int]], most: int, pads: bool = True) -> Iterator[list[int]]:
        """Yield the indices of `sizes` in batches of up to `most` tokens, padding included.

        A size is (tokens per row, rows). All sizes in a batch have the same number of rows, the longest comes first,
        and every row is padded to the longest; unless `pads`, all rows are of one length.
        """
        batch: list[int] = []
        for index in sorted(range(len(sizes)), key=lambda index: (sizes[index][1], -sizes[index][0], index)):
            if batch:
                longest, rows = sizes[batch[0]]
                unlike = sizes[index][1] != rows or (not pads and sizes[index][0] != longest)
                if unlike or longest * rows * (len(batch) + 1) > most:
                    yield batch
                    batch = []
            batch.append(index)
        if batch:
            yield batch

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], sampling: Sampling, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Completion | Refused]]]:
        """One completion per prompt; equal prompts form a group of rollouts."""
        encoded = [self.chat.encode(prompt) for prompt in prompts]
        refused = too_long(encoded, self.limit, sampling.max_new_tokens)
        if refused:
            yield list(refused.items())
        same: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(encoded):
            if index not in refused:
                same.setdefault(tuple(row), []).append(index)
        groups = [(list(row), members) for row, members in same.items()]
        sizes = [(len(row) + sampling.max_new_tokens, len(members)) for row, members in groups]
        for batch in self._batches(sizes, self.batch_tokens, self.layout.pads):
            rows = [groups[group][0] for group in batch]
            members = [index for group in batch for index in groups[group][1]]
            if all(index in done for index in members):
                continue
            generations = len(members) // len(rows)
            rooms = [self._room(row, sampling) for row in rows]
            steps = max(rooms)
            uniforms = torch.tensor(np.stack([np.random.default_rng(seeds[index]).random(steps) for index in members]))
            drawn = self._sample(rows, generations, replace(sampling, max_new_tokens=steps), uniforms)
            answers: list[tuple[int, Completion | Refused]] = []
            for place, (index, (tokens, logprobs)) in enumerate(zip(members, drawn, strict=True)):
                row, room = rows[place // generations], rooms[place // generations]
                answers.append((index, self._completion(tokens[:room], logprobs[:room], sampling, len(row))))
            yield answers

    def _completion(
        self, tokens: list[int], logprobs: list[float], sampling: Sampling, prompt_tokens: int
    ) -> Completion:
        ended = bool(tokens) and tokens[-1] in self.stops
        text = self.chat.decode(tokens[:-1] if ended else tokens)
        at = end_of_stop(text, sampling.stop)
        return Completion(
            text=self.chat.normalised(text[:at]),
            finish_reason="length" if at is None and not ended else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(tokens),
            logprobs=tuple(round(value, 5) for value in logprobs),
        )

    def _sample(
        self, rows: _Rows, generations: int, sampling: Sampling, uniforms: torch.Tensor
    ) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probabilities of `generations` completions per row of prompt tokens."""
        criterion = StopStringCriteria(self.chat.tokenizer, list(sampling.stop)) if sampling.stop else None
        rollout = packing.rollout if self.layout.shares else padding.rollout
        return rollout(
            self.model,
            rows,
            generations,
            sampling.max_new_tokens,
            self.stops,
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            uniforms,
            None if criterion is None else lambda drawn: criterion(drawn, None),
        )

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Choice | Refused]]]:
        """For each prompt, the log-probabilities of the tokens of the choices (see `ChatTokenizer.choices`)."""
        encoded = self.chat.encode_choosing(prompts, choices)
        rows = [row for row, _ in encoded]
        refused = too_long(rows, self.limit)
        if refused:
            yield list(refused.items())
        for members, logits in self._scored(rows, [1] * len(rows), done, refused):
            answers: list[tuple[int, Choice | Refused]] = []
            for index, values in zip(members, logits, strict=True):
                row, tokens = encoded[index]
                chosen = values[0].double().log_softmax(-1)[tokens]
                answers.append((index, Choice(tuple(chosen.tolist()), len(row))))
            yield answers

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Likelihood | Refused]]]:
        """For each prompt, the log-likelihood of its continuation."""
        answered = self.chat.encode_scored(prompts, continuations)
        rows = [row for row, _ in answered]
        refused = too_long(rows, self.limit)
        if refused:
            yield list(refused.items())
        for members, logits in self._scored(rows, [len(row) - start + 1 for row, start in answered], done, refused):
            answers: list[tuple[int, Likelihood | Refused]] = []
            for index, values in zip(members, logits, strict=True):
                row, start = answered[index]
                tail = torch.tensor(row[start:], device=values.device)
                picked = values[:-1].double().log_softmax(-1).gather(1, tail[:, None])
                answers.append((index, Likelihood(picked.sum().item(), len(tail), len(row))))
            yield answers

    def last_states(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> torch.Tensor:
        """Last hidden state at the end of each prompt with its continuation: (prompts, hidden size), float32, CPU.

        It is NaN for texts that are longer than the model's context.
        """
        rows = [self.chat.encode_answered(p, text)[0] for p, text in zip(prompts, continuations, strict=True)]
        refused = too_long(rows, self.limit)
        states = torch.full((len(rows), self.model.config.get_text_config().hidden_size), torch.nan)
        for members, last in self._scored(rows, [1] * len(rows), (), refused, packing.column_states):
            states[members] = torch.cat(last).float().cpu()
        return states

    def _scored(
        self,
        rows: _Rows,
        wanted: Sequence[int],
        done: Collection[int],
        refused: Collection[int],
        read: packing.Read = packing.column_logits,
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Yield batches: the indices of their rows, and what `read` gives at each row's last `wanted` tokens."""
        kept = [index for index in range(len(rows)) if index not in refused]
        groups = _by_beginning(rows, wanted, kept) if self.layout.shares else [(0, [index]) for index in kept]
        # A group costs its tokens, or its logits if they take more of their budget.
        most = min(self.batch_tokens, _CPU_TOKENS) if self.model.device.type == "cpu" else self.batch_tokens
        logits_per_token = MOST_LOGITS / most / self.model.config.get_text_config().vocab_size
        sizes = []
        for head, members in groups:
            tokens = head + sum(len(rows[i]) - head for i in members)
            sizes.append((max(tokens, int(sum(wanted[i] for i in members) / logits_per_token)), 1))
        for batch in self._batches(sizes, most):
            members = [index for group in batch for index in groups[group][1]]
            if all(index in done for index in members):
                continue
            counts = [wanted[index] for index in members]
            if self.layout.shares:
                heads, tails = [], []
                for place, (head, sharing) in enumerate(groups[group] for group in batch):
                    heads.append(rows[sharing[0]][:head])
                    tails += [(place, rows[index][head:]) for index in sharing]
                yield members, packing.tail_logits(self.model, heads, tails, counts, read)
            else:
                yield members, padding.row_logits(self.model, [rows[index] for index in members], counts, read)


def _compute_logits_in_float32(model: PreTrainedModel) -> None:
    """Give a model a float32 copy of its output embedding; all that its forward pass does behind it follows."""
    head = copy.deepcopy(model.get_output_embeddings()).float()
    head.register_forward_pre_hook(lambda _, arguments: tuple(argument.float() for argument in arguments))
    model.set_output_embeddings(head)


def _by_beginning(rows: _Rows, wanted: Sequence[int], kept: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Group those of the rows `kept` that begin alike: how many tokens each group computes once, and its members.

    Members share at least half of the longest one's tokens. The last `wanted` tokens of a row are never shared, since
    their states are asked for. Two orders of a judgement, sorted next to each other:

        instructions post preference A one B two   ->   head: instructions post preference A
        instructions post preference A two B one        tails: one B two, two B one
    """
    groups: list[tuple[int, list[int]]] = []
    for index in sorted(kept, key=lambda index: rows[index]):
        limit = len(rows[index]) - wanted[index]
        if groups:
            shared, members = groups[-1]
            prefix = commonprefix([rows[members[0]][:shared], rows[index]])  # type: ignore[list-item]
            alike = min(len(prefix), limit)
            if 2 * alike >= max(len(rows[member]) for member in (*members, index)):
                groups[-1] = (alike, [*members, index])
                continue
        groups.append((limit, [index]))
    return groups


def start(gpu: int = 0, **options: Any) -> TransformersBackend:
    """The backend of a `models` entry, which takes the first GPU that it sees; UserError if it needs one and has none.

    Without the error, a large model would run on a CPU for days.
    """
    if gpu and not torch.cuda.is_available():
        raise UserError(
            f"model {options['path']} asks for a GPU (run.gpu: {gpu}), and torch {torch.__version__} finds none here;"
            " set gpu: 0 to run it on a CPU"
        )
    return TransformersBackend(**options)
