"""Scale models are trained on the token ids that engines give them, and on all rows of a step alike."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from alignxplore.demo.pretrain import (
    MICRO_BATCH,
    Encoder,
    Schedule,
    Shape,
    micro_batches,
    new_model,
    train,
    train_tokenizer,
)
from alignxplore.demo.tasks import role_samples
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.prompts import JUDGE_CHOICES, JUDGE_PREFILL, strip_markers
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def tokenizer(tasks, tmp_path_factory):
    texts = [tasks.world.glossary_line(tasks.axes) for _ in range(200)]
    for sample in islice(role_samples("judge", tasks)(tasks.world.rng, 1.0), 60):
        texts.append(f"{strip_markers(sample.prompt.user)}\n{sample.prompt.prefill}{sample.completion}")
    train_tokenizer(texts, 900, path := tmp_path_factory.mktemp("tokenizer"))
    return PreTrainedTokenizerFast.from_pretrained(path)


@pytest.mark.parametrize("role", ["judge", "base", "teacher", "backbone", "instruct", "updater"])
def test_samples_are_tokenised_as_engines_do(role, tasks, tokenizer):
    chat, encode = ChatTokenizer(tokenizer), Encoder(tokenizer)
    _, choices = chat.choices(JUDGE_PREFILL, JUDGE_CHOICES)
    annotated = 0
    for sample in islice(role_samples(role, tasks)(tasks.world.rng, 0.5), 20):
        ids, notes, answer = encode(sample)
        prompt = chat.encode(sample.prompt)
        assert ids[: len(prompt)] == prompt
        assert answer[: len(prompt) - 1] == [-100] * (len(prompt) - 1)
        if role == "judge":
            assert answer[len(prompt) - 1] in choices
        elif sample.closed:
            whole, start = chat.encode_completed(sample.prompt, sample.completion)
            assert ids == whole and answer[start - 1 : -1] == ids[start:]
        annotated += sum(note != -100 for note in notes)
        assert sum(note != -100 for note in notes) == sum(len(words) for _, words in sample.notes)
    assert annotated or role == "instruct"


def test_a_system_turn_is_tokenised_as_engines_do(tasks, tokenizer):
    sample = next(role_samples("judge", tasks)(tasks.world.rng, 0.5))
    sample = replace(sample, prompt=replace(sample.prompt, system="You choose."))
    prompt = ChatTokenizer(tokenizer).encode(sample.prompt)
    assert Encoder(tokenizer)(sample)[0][: len(prompt)] == prompt


def test_parts_of_a_step_hold_all_its_rows_and_little_padding(tasks, tokenizer):
    encoder = Encoder(tokenizer)
    samples = list(islice(role_samples("instruct", tasks)(tasks.world.rng, 1.0), 100))
    parts = micro_batches(encoder, iter(samples), 8000)
    rows = [row for part in parts for row in part]
    assert sorted(rows) == sorted(encoder(sample) for sample in samples[: len(rows)])
    assert 8000 <= sum(len(ids) for ids, _, _ in rows) < 8000 + max(len(ids) for ids, _, _ in rows)
    padded = [len(part) * max(len(ids) for ids, _, _ in part) for part in parts]
    assert len(parts) > 2 and max(padded) <= MICRO_BATCH
    assert sum(padded) < 1.15 * sum(len(ids) for ids, _, _ in rows)


def test_the_loss_of_a_step_is_the_mean_over_its_rows_of_both_targets(tasks, tokenizer):
    samples = list(islice(role_samples("base", tasks)(tasks.world.rng, 1.0), 100))
    model = new_model(tokenizer, Shape(hidden_size=32, layers=2, heads=2), tasks.world, tasks.axes, seed=1)
    encoder = Encoder(tokenizer)
    rows = [row for part in micro_batches(encoder, iter(samples), 6000) for row in part]
    expected = []
    for ids, aux, answer in rows:
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(1)
        for targets, weight in ((aux, 1.5), (answer, 1.0)):
            found = [-logprobs[place, target].item() for place, target in enumerate(targets) if target != -100]
            expected.append(weight * sum(found) / len(found))
    schedule = Schedule(steps=1, batch_tokens=6000, annotation_weight=1.5)
    losses = train(model, encoder, lambda progress: iter(samples), schedule, torch.float32)
    assert losses == pytest.approx([sum(expected) / len(rows)], rel=1e-5)
