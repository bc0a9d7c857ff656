"""The transformers engine: length-sorted batches by a token budget, on CPU or GPU."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignxplore.engines import shared_prompts
from alignxplore.engines.base import Completion, Sampling
from alignxplore.engines.tokens import encode, encode_text
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt


class TransformersEngine:
    """A causal language model in this process."""

    def __init__(self, path: str, revision: str | None = None, dtype: str = "float32", batch_tokens: int = 16384):
        local = Path(path).is_dir()
        options = {"revision": revision, "local_files_only": local, "trust_remote_code": False}
        self.tokenizer = AutoTokenizer.from_pretrained(path, **options)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True, **options).eval()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device)
        self.batch_tokens = batch_tokens
        stops = self.model.generation_config.eos_token_id
        self.stops = set(stops if isinstance(stops, list) else [stops])
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self.stops)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices in batches of like length whose padded size is within the budget."""
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        batch: list[int] = []
        for index in order:
            if batch and lengths[batch[0]] * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """One sampled completion for each prompt; the same seed and prompts give the same completions."""
        rows = [encode(self.tokenizer, prompt) for prompt in prompts]
        results: dict[int, Completion] = {}
        torch.manual_seed(sampling.seed)
        for batch in self._batches([len(row) + sampling.max_new_tokens for row in rows]):
            for index, tokens in zip(batch, self._sample([rows[index] for index in batch], sampling), strict=True):
                end = next((place for place, token in enumerate(tokens) if token in self.stops), None)
                kept = tokens if end is None else tokens[:end]
                results[index] = Completion(
                    text=str(self.tokenizer.decode(kept, skip_special_tokens=False)),
                    finish_reason="length" if end is None else "stop",
                    prompt_tokens=len(rows[index]),
                    completion_tokens=len(kept),
                )
        return [results[index] for index in range(len(rows))]

    def _sample(self, rows: Sequence[list[int]], sampling: Sampling) -> list[list[int]]:
        """A completion's tokens for each row of prompt tokens; what follows an end token has no meaning."""
        if sampling.temperature > 0 and shared_prompts.supports(self.model):
            return shared_prompts.rollout(
                self.model,
                rows,
                1,
                sampling.max_new_tokens,
                self.stops,
                sampling.temperature,
                sampling.top_p,
                sampling.top_k,
            )
        width = max(map(len, rows))
        ids = torch.tensor([[self.pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            output = self.model.generate(
                ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=sampling.temperature > 0,
                temperature=sampling.temperature or None,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                eos_token_id=sorted(self.stops),
                pad_token_id=self.pad,
            )
        return output[:, width:].tolist()

    @torch.inference_mode()
    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """Log-probability of each choice's first token after each prompt: (prompts, choices), in nats."""
        tokens = [self.tokenizer.encode(choice, add_special_tokens=False)[0] for choice in choices]
        if len(set(tokens)) < len(tokens):
            raise UserError(f"{self.tokenizer.name_or_path}: the choices {list(choices)} begin with the same token")
        rows = [encode(self.tokenizer, prompt) for prompt in prompts]
        result = np.empty((len(rows), len(tokens)))
        for batch in self._batches([len(row) for row in rows]):
            hidden = self._hidden([rows[index] for index in batch])
            last = torch.tensor([len(rows[index]) - 1 for index in batch], device=self.device)
            logits = self.model.lm_head(hidden[torch.arange(len(batch), device=self.device), last])
            result[batch] = logits.double().log_softmax(-1)[:, tokens].cpu().numpy()
        return result

    @torch.inference_mode()
    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[tuple[float, int]]:
        """Sum of the continuation's token log-probabilities in nats, and its number of tokens, for each prompt."""
        heads = [encode(self.tokenizer, prompt) for prompt in prompts]
        tails = [encode_text(self.tokenizer, text) for text in continuations]
        result: list[tuple[float, int]] = [(0.0, 0)] * len(heads)
        for batch in self._batches([len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)]):
            hidden = self._hidden([heads[index] + tails[index] for index in batch])
            for row, index in enumerate(batch):
                start, tail = len(heads[index]) - 1, torch.tensor(tails[index], device=self.device)
                logits = self.model.lm_head(hidden[row, start : start + len(tail)]).double()
                picked = logits.log_softmax(-1).gather(1, tail[:, None])
                result[index] = (picked.sum().item(), len(tail))
        return result

    def _hidden(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Last hidden states (rows, longest, size) of right-padded rows; causal attention never sees the padding."""
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=self.pad
        )
        return self.model.model(input_ids=ids.to(self.device)).last_hidden_state
