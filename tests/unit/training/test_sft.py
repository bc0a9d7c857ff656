"""SFT computes Eq. 8 exactly, on ragged batches and with gradient accumulation, and saves a loadable model."""

from pathlib import Path

import polars as pl
import pytest
import torch
from alignxplore import records
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.errors import UserError
from alignxplore.prompts import WORD_JOINER, Templates
from alignxplore.training import loop, scoring, sft
from alignxplore.training.models import load_model
from alignxplore.training.settings import check_settings, make_arguments
from datasets import Dataset
from demonstrations import demonstration, write_demonstrations
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

ROOT = Path(__file__).parents[3]
NAMES = ("preference", "concise", "update", "judge", "respond")
PROMPTS = {name: str(ROOT / f"resources/prompts/{name}.jinja") for name in NAMES}
SETTINGS = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "num_train_epochs": 1, "seed": 3}


@pytest.fixture
def data(tmp_path) -> Path:
    return write_demonstrations(tmp_path / "cold.parquet")


def reference_loss(model, rows) -> torch.Tensor:
    """Eq. 8 in float64, sequence by sequence, from plain logits."""
    losses = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        kept = labels != -100
        picked = logits.log_softmax(-1)[kept].gather(1, labels[kept][:, None])
        losses.append(-picked.mean())
    return torch.stack(losses).mean()


def tokenised_rows(tokenizer, data):
    frame = records.read(data, records.DEMONSTRATION)
    templates = Templates(**PROMPTS)
    return sft.tokenise(
        ChatTokenizer(tokenizer), [templates.preference(r) for r in frame.to_dicts()], frame["completion"].to_list()
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("batch, accumulation", [(5, 1), (2, 3)])
def test_loss_and_gradient_match_eq_8(tiny_model, data, tmp_path, monkeypatch, batch, accumulation, fused):
    if fused:
        monkeypatch.setattr(scoring, "MOST_LOGITS", 0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = tokenised_rows(tokenizer, data)[:5]
    assert len({len(row["input_ids"]) for row in rows}) == 5
    exact = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    expected = reference_loss(exact, rows)
    expected.backward()

    settings = check_settings(
        {**SETTINGS, "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
         "max_steps": 1, "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 1.0}, SFTConfig,
    )  # fmt: skip
    arguments = make_arguments(SFTConfig, settings, sft.DEFAULTS, tmp_path / "out")
    network = load_model(tiny_model, settings, ChatTokenizer(tokenizer))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    trainer = sft.ColdStartTrainer(
        model=network, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    loop.run(trainer)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    # One SGD step with learning rate 1 moves the weights by exactly the gradient.
    for name, value in exact.named_parameters():
        moved = before[name].double() - dict(network.named_parameters())[name].detach().double()
        assert torch.allclose(moved, value.grad, rtol=1e-3, atol=2e-6), name


def test_labels_mask_the_prompt_and_end_with_the_end_token(tiny_model, data):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    case = demonstration(1, "<think>\na\n</think>\n<answer>\nb<|im_end|>\n</answer>")
    prompt = Templates(**PROMPTS).preference(case)
    chat = ChatTokenizer(tokenizer)
    (row,) = sft.tokenise(chat, [prompt], [case["completion"]])
    prompt_ids = chat.encode(prompt)
    assert row["input_ids"][: len(prompt_ids)] == prompt_ids
    assert row["labels"][: len(prompt_ids)] == [-100] * len(prompt_ids)
    completion = row["labels"][len(prompt_ids) :]
    assert completion == row["input_ids"][len(prompt_ids) :]
    assert tokenizer.decode(completion).replace(WORD_JOINER, "") == case["completion"] + tokenizer.eos_token
    assert completion.count(tokenizer.eos_token_id) == 1, "completion text must not end the turn"
    assert completion[0] == tokenizer.convert_tokens_to_ids("<think>")


def test_golden_preferences_are_learned_without_reasoning(tiny_model, tmp_path, caplog):
    data = tmp_path / "split.parquet"
    rows = [demonstration(number, "") for number in range(1, 5)]
    examples = pl.DataFrame([{**row, "golden_preference": f"likes {n}"} for n, row in enumerate(rows)])
    records.write(examples.select(records.EXAMPLE.names()), data, records.EXAMPLE)
    templates = Templates(concise=PROMPTS["concise"])
    prompts, completions = sft._golden_preferences(data, templates)
    assert completions == ["likes 0", "likes 1", "likes 2", "likes 3"]
    assert prompts == [templates.concise(row) for row in rows]
    sft.train(SETTINGS, tiny_model, data, templates, tmp_path / "model", tmp_path / "metrics.parquet")
    card = (tmp_path / "model/README.md").read_text()
    assert "fine-tuning on golden preferences" in card and "<think>" not in card
    unknown = examples.with_columns(golden_preference=pl.lit(""))
    records.write(unknown.select(records.EXAMPLE.names()), data, records.EXAMPLE)
    with pytest.raises(UserError, match="4 of 4 examples have no golden preference"):
        sft.train(SETTINGS, tiny_model, data, templates, tmp_path / "model", tmp_path / "metrics.parquet")


def test_think_tag_is_dropped_if_the_template_opens_it(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    prompt = Templates(**PROMPTS).preference(demonstration(1, ""))
    (row,) = sft.tokenise(ChatTokenizer(tokenizer), [prompt], ["<think>\na\n</think>\n<answer>\nb\n</answer>"])
    text = tokenizer.decode(row["input_ids"])
    assert text.endswith("<think>\na\n</think>\n<answer>\nb\n</answer>" + tokenizer.eos_token)
    assert text.count("<think>\na") == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"learning_rat": 1e-3}, "'learning_rat' is unknown.*did you mean 'learning_rate'"),
        ({"learning_rate": "1e-3"}, "'learning_rate' must be float"),
        ({"output_dir": "elsewhere"}, "'output_dir' is unknown"),
        ({"seed": True}, "'seed' must be int"),
        ({"packing": True}, "'packing'"),
        ({"lr_scheduler_type": "nonesuch"}, "nonesuch"),
        ({"max_length": 3}, "longer than"),
    ],
)
def test_error_names_the_bad_setting_and_nothing_is_written(tiny_model, data, tmp_path, settings, message):
    output, metrics = tmp_path / "model", tmp_path / "metrics.parquet"
    with pytest.raises(UserError, match=message):
        sft.train(settings, tiny_model, data, Templates(**PROMPTS), output, metrics)
    assert not output.exists() and not metrics.exists()


def test_a_step_of_a_stream_is_learned_as_an_update(data):
    plain = demonstration(1, "a")
    pairs = [{**plain["pairs"][0], "chosen": text} for text in ("old", "new")]
    step = {**plain, "pairs": pairs, "stream": "u", "chunks": [1, 1], "past": "likes humor"}
    records.write(pl.DataFrame([plain, step], schema=records.DEMONSTRATION), data, records.DEMONSTRATION)
    templates = Templates(**PROMPTS)
    prompts, completions = sft._demonstrations(data, templates)
    new = {**step, "pairs": pairs[1:]}
    assert prompts == [templates.preference(plain), templates.preference(new, template="update", past="likes humor")]
    assert completions == ["a", "a"]
