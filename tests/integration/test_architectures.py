"""The model's own numbers: for many architectures, each number equals what the model's `forward` gives, or is refused.

`python tests/integration/test_architectures.py` prints the table of differences.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from alignxplore.engines import Sampling
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt, mark_user_text
from alignxplore.training import grpo
from answers import in_order
from architectures import save_random

_SUPPORTED = """
    afmoe apertus arcee aria_text bamba biogpt bitnet bloom codegen cohere cohere2 cohere2_moe ctrl cwm
    deepseek_v2 deepseek_v3 diffllama doge ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon falcon_h1
    falcon_mamba flex_olmo gemma gemma2 gemma3_text glm glm4 glm4_moe glm4_moe_lite gpt2 gpt_bigcode gpt_neox
    gpt_oss gptj granite granitemoe granitemoehybrid granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe
    hyperclovax internlm3 jais2 jamba jetmoe lfm2 llama longcat_flash mamba mamba2 minicpm3 minimax ministral
    mistral mixtral nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3
    qwen3_moe qwen3_next seed_oss smollm3 solar_open stablelm starcoder2
"""
SUPPORTED = _SUPPORTED.split()
REFUSED = ["bert", "camembert", "electra", "big_bird", "prophetnet"]
"""They look ahead, or are one half of an encoder-decoder: batches of theirs are not single passes."""
UNTRAINED = {
    "gpt_neo": "pads prompts on the left",
    "openai-gpt": "pads prompts on the left",
    "xglm": "pads prompts on the left",
    "recurrent_gemma": "fused output embedding",
}
"""Why TRL would score rollouts of theirs by other numbers."""

PROMPTS = [Prompt(f"Post: {mark_user_text('a quick joke ' * n)}", '{"selection": "Response') for n in (1, 9, 3, 14)]
ANSWERS = ["a passport", "likes humor, a passport", "joke", "would help"]
SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=6, seed=1)
TRAINING = {
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "max_steps": 1,
    "learning_rate": 1e-5,
    "max_completion_length": 6,
}


def differences(path: Path, trained: bool = True) -> dict[str, float]:
    """The greatest difference, in nats, between each kind of number and the model's `forward` on one row."""
    backend = TransformersBackend(str(path))

    @torch.inference_mode()
    def forward(ids: list[int]) -> torch.Tensor:
        return backend.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    def picked(row: list[int], start: int) -> torch.Tensor:
        return forward(row)[start - 1 : -1].gather(1, torch.tensor(row[start:])[:, None])[:, 0]

    rows = [backend.chat.encode(prompt) for prompt in PROMPTS]
    found = {}
    shared, tokens = backend.chat.choices(PROMPTS[0].prefill, (" A", " B"))
    expected = [forward(row + shared)[-1, tokens].numpy() for row in rows]
    found["choice"] = np.abs(np.array(in_order(backend.choice_logprobs(PROMPTS, (" A", " B")))) - expected).max()
    answered = [backend.chat.encode_answered(prompt, text) for prompt, text in zip(PROMPTS, ANSWERS, strict=True)]
    scores = in_order(backend.loglikelihood(PROMPTS, ANSWERS))
    found["likelihood"] = max(
        abs(picked(*own).sum().item() - total) for own, (total, _) in zip(answered, scores, strict=True)
    )
    drawn: list[tuple[list[int], list[float]]] = []
    inner = backend._sample

    def recorded(*arguments):
        drawn.extend(zip([row for row in arguments[0] for _ in range(arguments[1])], inner(*arguments), strict=True))
        return [completion for _, completion in drawn[-len(arguments[0]) * arguments[1] :]]

    backend._sample = recorded
    in_order(backend.generate(PROMPTS, [1, 2, 3, 4], SAMPLING))
    found["sampled"] = max(
        (picked([*row, *new], len(row)) - torch.tensor(logprobs)).abs().max().item() for row, (new, logprobs) in drawn
    )
    if not trained:
        return found
    trainer = grpo.make_trainer(
        TRAINING, path, [{}] * 4, PROMPTS, lambda parsed, cases: [0.0] * len(parsed), path / "out"
    )
    completions = [new for _, (new, _) in drawn]
    width, tail = max(map(len, rows)), max(map(len, completions))
    order = [rows.index(row) for row, _ in drawn]
    ids, mask = [], []
    for i, new in zip(order, completions, strict=True):
        left, right = [0] * (width - len(rows[i])), [0] * (tail - len(new))
        ids.append(left + rows[i] + new + right)
        mask.append(left + [1] * len(rows[i] + new) + right)
    with torch.no_grad():
        logprobs, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model.eval(), torch.tensor(ids), torch.tensor(mask), tail
        )
    found["GRPO"] = max(
        (picked(rows[i] + new, len(rows[i])) - values[: len(new)]).abs().max().item()
        for i, new, values in zip(order, completions, logprobs, strict=True)
    )
    return found


@pytest.mark.parametrize("kind", SUPPORTED)
def test_every_number_is_the_models_own(kind, tiny_model, tmp_path):
    for name, difference in differences(save_random(kind, tiny_model, tmp_path / kind)).items():
        assert difference < 1e-3, (name, difference)


@pytest.mark.parametrize("kind", UNTRAINED)
def test_models_that_grpo_would_score_by_other_numbers_are_not_trained(kind, tiny_model, tmp_path):
    path = save_random(kind, tiny_model, tmp_path / kind)
    assert max(differences(path, trained=False).values()) < 1e-3
    with pytest.raises(UserError, match=f"{UNTRAINED[kind]}.*cannot be trained"):
        differences(path)


@pytest.mark.parametrize("kind", REFUSED)
def test_models_whose_batches_give_other_numbers_are_refused(kind, tiny_model, tmp_path):
    path = save_random(kind, tiny_model, tmp_path / kind)
    with pytest.raises(UserError, match=f"{kind}.*do not give the numbers of single passes"):
        TransformersBackend(str(path))


if __name__ == "__main__":
    from conftest import WORDS
    from random_models import random_qwen2

    with tempfile.TemporaryDirectory() as directory:
        tokenizer = random_qwen2(Path(directory) / "tokenizer", WORDS)
        print("| architecture | choice | likelihood | sampled | GRPO |\n| --- | --- | --- | --- | --- |")
        for kind in sys.argv[1:] or [*SUPPORTED, *UNTRAINED, *REFUSED]:
            try:
                found = differences(save_random(kind, tokenizer, Path(directory) / kind))
                print(f"| {kind} | {' | '.join(f'{value:.0e}' for value in found.values())} |", flush=True)
            except Exception as error:
                print(f"| {kind} | {type(error).__name__}: {str(error)[:150]!r} |", flush=True)
