"""The transformers backend: prompts of similar length in batches of a token budget, shared beginnings computed once.

Models that `packing` supports run in its layouts. For the others, sampling pads on the left, so that all rows write
their next token in the same column; scoring pads on the right, where causal attention never looks:

    sampling   . . p p | t t t        scoring   p p p c c
               p p p p | t t t                  p p c . .
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList, StopStringCriteria

from alignxplore.engines import packing
from alignxplore.engines.base import Completion, Sampling
from alignxplore.engines.tokens import (
    check_lengths,
    check_scored,
    choice_tokens,
    context_limit,
    encode,
    encode_text,
    opens_thinking,
)
from alignxplore.errors import UserError, unloadable
from alignxplore.formats import normalise_thinking
from alignxplore.prompts import Prompt

_Rows = Sequence[list[int]]
"""Token ids of prompts, or of prompts with their continuations."""


class TransformersBackend:
    """A causal language model in this process; `chat_template` holds options for the model's chat template.

    A prompt longer than the model's context is refused. A completion is cut off at the end of the context.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: str = "float32",
        batch_tokens: int = 16384,
        chat_template: Mapping[str, Any] | None = None,
    ):
        local = Path(path).is_dir()
        options = {"revision": revision, "local_files_only": local, "trust_remote_code": False}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, **options)
            self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True, **options).eval()
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(unloadable(path, error)) from error
        self.path = path
        self.limit = context_limit(self.model.config.get_text_config())
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device)
        self.batch_tokens = batch_tokens
        self.chat_template = chat_template
        stops = self.model.generation_config.eos_token_id
        self.stops = set(stops if isinstance(stops, list) else [stops])
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self.stops)
        self.shares = packing.supports(self.model)

    def _encode(self, prompts: Sequence[Prompt], new: int = 0) -> list[list[int]]:
        rows = [encode(self.tokenizer, prompt, self.chat_template) for prompt in prompts]
        check_lengths(self.path, rows, self.limit, new)
        return rows

    def _joined(self, heads: _Rows, continuations: Sequence[str]) -> tuple[_Rows, _Rows]:
        """Each prompt followed by its continuation, and the continuations alone."""
        tails = [encode_text(self.tokenizer, text) for text in continuations]
        rows = [head + tail for head, tail in zip(heads, tails, strict=True)]
        check_lengths(self.path, rows, self.limit)
        return rows, tails

    def _room(self, row: Sequence[int], sampling: Sampling) -> int:
        """The most tokens that a completion of the row may have."""
        return sampling.max_new_tokens if self.limit is None else min(sampling.max_new_tokens, self.limit - len(row))

    def _batches(self, sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
        """Yield the indices of `sizes` in batches of up to `batch_tokens` tokens, padding included.

        A size is (tokens per row, rows). All sizes in a batch have the same number of rows, the longest comes first,
        and every row is padded to the longest.
        """
        batch: list[int] = []
        for index in sorted(range(len(sizes)), key=lambda index: (sizes[index][1], -sizes[index][0], index)):
            if batch:
                longest, rows = sizes[batch[0]]
                if sizes[index][1] != rows or longest * rows * (len(batch) + 1) > self.batch_tokens:
                    yield batch
                    batch = []
            batch.append(index)
        if batch:
            yield batch

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], sampling: Sampling, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Completion]]]:
        """One completion per prompt; equal prompts form a group of rollouts."""
        same: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(self._encode(prompts, sampling.max_new_tokens)):
            same.setdefault(tuple(row), []).append(index)
        groups = [(list(row), members) for row, members in same.items()]
        opened = opens_thinking(self.tokenizer, self.chat_template)
        for batch in self._batches([(len(row) + sampling.max_new_tokens, len(members)) for row, members in groups]):
            rows = [groups[group][0] for group in batch]
            members = [index for group in batch for index in groups[group][1]]
            if all(index in done for index in members):
                continue
            generations = len(members) // len(rows)
            rooms = [self._room(row, sampling) for row in rows]
            steps = max(rooms)
            uniforms = torch.tensor(np.stack([np.random.default_rng(seeds[index]).random(steps) for index in members]))
            drawn = self._sample(rows, generations, replace(sampling, max_new_tokens=steps), uniforms)
            answers = []
            for place, (index, (tokens, logprobs)) in enumerate(zip(members, drawn, strict=True)):
                row, room = rows[place // generations], rooms[place // generations]
                answers.append((index, self._completion(tokens[:room], logprobs[:room], sampling, opened, len(row))))
            yield answers

    def _completion(
        self, tokens: list[int], logprobs: list[float], sampling: Sampling, opened: bool, prompt_tokens: int
    ) -> Completion:
        ended = bool(tokens) and tokens[-1] in self.stops
        text = str(self.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=False))
        at = min((text.find(stop) + len(stop) for stop in sampling.stop if stop in text), default=None)
        return Completion(
            text=normalise_thinking(text[:at], opened=opened),
            finish_reason="length" if at is None and not ended else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(tokens),
            logprobs=tuple(round(value, 5) for value in logprobs),
        )

    def _sample(
        self, rows: _Rows, generations: int, sampling: Sampling, uniforms: torch.Tensor
    ) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probabilities of `generations` completions per row of prompt tokens."""
        criterion = StopStringCriteria(self.tokenizer, list(sampling.stop)) if sampling.stop else None
        if self.shares:
            return packing.rollout(
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
        repeated = [list(row) for row in rows for _ in range(generations)]
        width = max(map(len, repeated))
        ids = torch.tensor([[self.pad] * (width - len(row)) + row for row in repeated])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in repeated])
        draw = _Draw(sampling, uniforms.to(self.device), width)
        with torch.inference_mode():
            output = self.model.generate(
                ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                logits_processor=LogitsProcessorList([draw]),
                stopping_criteria=[criterion] if criterion else None,
                eos_token_id=sorted(self.stops),
                pad_token_id=self.pad,
            )[:, width:]
        results = []
        for row, logprobs in zip(output, torch.stack(draw.logprobs, 1).tolist(), strict=True):
            count = self._until_end(row, criterion)
            results.append((row[:count].tolist(), logprobs[:count]))
        return results

    def _until_end(self, row: torch.Tensor, criterion: StopStringCriteria | None) -> int:
        """Length of a completion that `generate` has padded after its end."""
        for count in range(1, len(row) + 1):
            if row[count - 1].item() in self.stops or (criterion and criterion(row[None, :count], None).item()):
                return count
        return len(row)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Log-probability, in nats, of the first token of each choice after each prompt."""
        tokens = choice_tokens(self.tokenizer, choices)
        check_scored(self.tokenizer, prompts, self.chat_template)
        for members, hidden in self._hidden(self._encode(prompts), 1, done):
            logits = self._logits(torch.stack([states[-1] for states in hidden]))
            yield list(zip(members, logits.log_softmax(-1)[:, tokens].tolist(), strict=True))

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, tuple[float, int]]]]:
        """For each prompt, the log-likelihood of its continuation in nats and the continuation's number of tokens."""
        check_scored(self.tokenizer, prompts, self.chat_template)
        rows, tails = self._joined(self._encode(prompts), continuations)
        for members, hidden in self._hidden(rows, [len(tail) + 1 for tail in tails], done):
            answers = []
            for index, states in zip(members, hidden, strict=True):
                tail = torch.tensor(tails[index], device=self.device)
                picked = self._logits(states[:-1]).log_softmax(-1).gather(1, tail[:, None])
                answers.append((index, (picked.sum().item(), len(tail))))
            yield answers

    def last_states(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> torch.Tensor:
        """Last hidden state at the end of each prompt with its continuation: (prompts, hidden size), float32, CPU."""
        rows, _ = self._joined(self._encode(prompts), continuations)
        states = torch.empty(len(rows), self.model.config.get_text_config().hidden_size)
        for members, hidden in self._hidden(rows, 1, ()):
            states[members] = torch.stack([last[-1] for last in hidden]).float().cpu()
        return states

    @torch.inference_mode()
    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.get_output_embeddings()(hidden).double()

    @torch.inference_mode()
    def _hidden(
        self, rows: _Rows, wanted: int | Sequence[int], done: Collection[int]
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Yield batches: the indices of their rows, and the hidden states of each row's last `wanted` tokens."""
        counts = [wanted] * len(rows) if isinstance(wanted, int) else wanted
        groups = _by_beginning(rows, counts) if self.shares else [(0, [index]) for index in range(len(rows))]
        sizes = [(head + sum(len(rows[i]) - head for i in members), 1) for head, members in groups]
        for batch in self._batches(sizes):
            members = [index for group in batch for index in groups[group][1]]
            if all(index in done for index in members):
                continue
            if self.shares:
                heads, tails = [], []
                for place, (head, sharing) in enumerate(groups[group] for group in batch):
                    heads.append(rows[sharing[0]][:head])
                    tails += [(place, rows[index][head:]) for index in sharing]
                hidden = packing.tail_states(self.model, heads, tails)
            else:
                padded = [torch.tensor(rows[index]) for index in members]
                ids = torch.nn.utils.rnn.pad_sequence(padded, batch_first=True, padding_value=self.pad)
                states = self.model.base_model(input_ids=ids.to(self.device)).last_hidden_state
                hidden = [row[: len(rows[index])] for row, index in zip(states, members, strict=True)]
            yield members, [states[len(states) - counts[i] :] for states, i in zip(hidden, members, strict=True)]


class _Draw(LogitsProcessor):
    """Draws each row's token with the row's own uniforms, and leaves a greedy `generate` no other choice."""

    def __init__(self, sampling: Sampling, uniforms: torch.Tensor, width: int):
        self.sampling, self.uniforms, self.width = sampling, uniforms, width
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        chance = self.uniforms[:, input_ids.shape[1] - self.width]
        settings = self.sampling
        chosen = packing.sample(scores, settings.temperature, settings.top_p, settings.top_k, chance)[:, None]
        self.logprobs.append(scores.float().log_softmax(-1).gather(-1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)  # type: ignore[return-value]


def _by_beginning(rows: _Rows, wanted: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Group rows that begin alike: for each group, the number of tokens to compute once, and its members.

    Members share at least half of the longest one's tokens. The last `wanted` tokens of a row are never shared, since
    their states are asked for. Two orders of a judgement, sorted next to each other:

        instructions post preference A one B two   ->   head: instructions post preference A
        instructions post preference A two B one        tails: one B two, two B one
    """
    groups: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(rows)), key=lambda index: rows[index]):
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
    """The backend of a `models` entry; transformers takes whichever GPU it sees."""
    return TransformersBackend(**options)
