"""The transformers backend: batches of like length by a token budget; what prompts share is computed once."""

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

Rows = Sequence[list[int]]


class TransformersBackend:
    """A causal language model in this process; `chat_template` holds options of the model's chat template.

    A prompt longer than the model's context is refused; a completion is cut off where the context is full.
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

    def _joined(self, heads: Rows, continuations: Sequence[str]) -> tuple[Rows, Rows]:
        """Each prompt with its continuation, and the continuations."""
        tails = [encode_text(self.tokenizer, text) for text in continuations]
        rows = [head + tail for head, tail in zip(heads, tails, strict=True)]
        check_lengths(self.path, rows, self.limit)
        return rows, tails

    def _room(self, row: Sequence[int], sampling: Sampling) -> int:
        """Tokens that a completion of the row may have."""
        return sampling.max_new_tokens if self.limit is None else min(sampling.max_new_tokens, self.limit - len(row))

    def _batches(self, sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
        """Indices in batches of like size whose padded tokens are within the budget.

        A size is (tokens of a row, rows); rows of one number come together.
        """
        batch: list[int] = []
        for index in sorted(range(len(sizes)), key=lambda index: (sizes[index][1], -sizes[index][0], index)):
            length, rows = sizes[index]
            if batch and (
                sizes[batch[0]][1] != rows or sizes[batch[0]][0] * (len(batch) + 1) * rows > self.batch_tokens
            ):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], sampling: Sampling, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Completion]]]:
        """One completion for each prompt; those of equal prompts are written side by side."""
        same: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(self._encode(prompts, sampling.max_new_tokens)):
            same.setdefault(tuple(row), []).append(index)
        groups = list(same.items())
        opened = opens_thinking(self.tokenizer, self.chat_template)
        for batch in self._batches([(len(row) + sampling.max_new_tokens, len(members)) for row, members in groups]):
            members = [index for group in batch for index in groups[group][1]]
            if all(index in done for index in members):
                continue
            rows = [list(groups[group][0]) for group in batch]
            rooms = [self._room(row, sampling) for row in rows]
            steps = max(rooms)
            uniforms = torch.tensor(np.stack([np.random.default_rng(seeds[index]).random(steps) for index in members]))
            drawn = self._sample(rows, len(members) // len(rows), replace(sampling, max_new_tokens=steps), uniforms)
            answers = []
            for index, place, (tokens, logprobs) in zip(
                members, np.repeat(range(len(rows)), len(members) // len(rows)), drawn, strict=True
            ):
                tokens, logprobs = tokens[: rooms[place]], logprobs[: rooms[place]]
                answers.append((index, self._completion(tokens, logprobs, sampling, opened, len(rows[place]))))
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
        self, rows: Rows, generations: int, sampling: Sampling, uniforms: torch.Tensor
    ) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probabilities of `generations` completions for each row of prompt tokens."""
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
        """Tokens of a completion that `generate` has padded after its end."""
        for count in range(1, len(row) + 1):
            if row[count - 1].item() in self.stops or (criterion and criterion(row[None, :count], None).item()):
                return count
        return len(row)

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Log-probability of each choice's first token after each prompt, in nats."""
        tokens = choice_tokens(self.tokenizer, choices)
        check_scored(self.tokenizer, prompts, self.chat_template)
        for members, hidden in self._hidden(self._encode(prompts), 1, done):
            logits = self._logits(torch.stack([states[-1] for states in hidden]))
            yield list(zip(members, logits.log_softmax(-1)[:, tokens].tolist(), strict=True))

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, tuple[float, int]]]]:
        """Sum of the continuation's token log-probabilities in nats, and its number of tokens, for each prompt."""
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
        """Last hidden state behind each prompt and its continuation: (prompts, hidden size), float32, on the CPU."""
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
        self, rows: Rows, wanted: int | Sequence[int], done: Collection[int]
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Batches of rows with the hidden states of each row's last `wanted` tokens."""
        counts = [wanted] * len(rows) if isinstance(wanted, int) else wanted
        groups = _sharing(rows, counts) if self.shares else [(0, [index]) for index in range(len(rows))]
        sizes = [(head + sum(len(rows[i]) - head for i in members), 1) for head, members in groups]
        for batch in self._batches(sizes):
            members = [index for group in batch for index in groups[group][1]]
            if all(index in done for index in members):
                continue
            if self.shares:
                heads = [rows[groups[group][1][0]][: groups[group][0]] for group in batch]
                tails = [
                    (place, rows[index][groups[group][0] :])
                    for place, group in enumerate(batch)
                    for index in groups[group][1]
                ]
                hidden = packing.continuations(self.model, heads, tails)
            else:
                padded = [torch.tensor(rows[index]) for index in members]
                ids = torch.nn.utils.rnn.pad_sequence(padded, batch_first=True, padding_value=self.pad)
                # Padding is on the right, where causal attention never sees it.
                states = self.model.base_model(input_ids=ids.to(self.device)).last_hidden_state
                hidden = [row[: len(rows[index])] for row, index in zip(states, members, strict=True)]
            yield (
                members,
                [states[len(states) - counts[index] :] for states, index in zip(hidden, members, strict=True)],
            )


class _Draw(LogitsProcessor):
    """Draws each row's token by its own uniforms: `generate`, told to be greedy, can but take it."""

    def __init__(self, sampling: Sampling, uniforms: torch.Tensor, width: int):
        self.sampling, self.uniforms, self.width = sampling, uniforms, width
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        chance = self.uniforms[:, input_ids.shape[1] - self.width]
        chosen = packing.sample(scores, self.sampling.temperature, self.sampling.top_p, self.sampling.top_k, chance)[
            :, None
        ]
        self.logprobs.append(scores.float().log_softmax(-1).gather(-1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)  # type: ignore[return-value]


def _sharing(rows: Rows, wanted: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Rows in groups that begin alike: how many tokens they share, at least one and half of each, and the members.

    The last `wanted` tokens of a row are never among those shared.
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
