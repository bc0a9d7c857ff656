"""Scale models are trained on the token ids that engines give them."""

from dataclasses import replace
from itertools import islice

import pytest
from alignxplore.demo.pretrain import Encoder, train_tokenizer
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
