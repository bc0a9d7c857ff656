"""A model's `chat_template` gives the same token ids in training, in rollouts, at inference and from the checkpoint."""

import shutil
from pathlib import Path

import pytest
import small_training
from alignxplore import engines
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.formats import parse_completion
from alignxplore.prompts import Prompt, mark_user_text
from alignxplore.training import grpo, sft
from alignxplore.training.checkpoints import run_facts
from alignxplore.training.models import load_tokenizer
from alignxplore.training.settings import check_settings
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig

ROOT = Path(__file__).parents[3]
CONVERSATION = str(ROOT / "resources/prompts/paper/conversation.jinja")
COMPLETION = "<think>\na joke\n</think>\n<answer>\nlikes humor\n</answer>"
PROMPTS = [Prompt(text) for text in small_training.QUESTIONS]
SWITCH = (
    "{% for m in messages %}  {{ '<|im_start|>' if m.role == 'user' }}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if not enable_thinking is defined or enable_thinking %}<think>\n{% else %}{{ tone }}\n{% endif %}"
)


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with a template that has options."""
    path = shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "switching")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    tokenizer.chat_template = SWITCH
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(
    scope="module", params=[CONVERSATION, {"enable_thinking": False, "tone": 'so "é"'}], ids=["file", "options"]
)
def chat_template(request):
    return request.param


@pytest.fixture(scope="module")
def asked(model, chat_template) -> TransformersBackend:
    return TransformersBackend(str(model), chat_template=chat_template)


def test_sft_learns_what_inference_asks(model, chat_template, asked):
    settings = check_settings({"chat_template": chat_template}, SFTConfig)
    rows = sft.tokenise(load_tokenizer(model, settings), PROMPTS, [COMPLETION] * len(PROMPTS))
    for row, prompt in zip(rows, PROMPTS, strict=True):
        ids = asked.chat.encode(prompt)
        assert row["input_ids"][: len(ids)] == ids and row["labels"][: len(ids)] == [-100] * len(ids)
        learnt = asked.chat.decode(row["labels"][len(ids) :]).removesuffix("<|im_end|>")
        assert parse_completion(asked.chat.normalised(learnt), "stop").format_ok
        assert asked.chat.decode(row["input_ids"]).count("<think>\na joke") == (chat_template != CONVERSATION)


def test_rollouts_answer_what_inference_asks(model, chat_template, asked, tmp_path):
    settings = {**small_training.SETTINGS, "chat_template": chat_template}
    cases = [{"example_id": prompt.user} for prompt in PROMPTS]
    trainer = grpo.make_trainer(settings, model, cases, PROMPTS, small_training.letters, tmp_path / "out")
    expected = [asked.chat.encode(prompt) for prompt in PROMPTS]
    assert list(trainer.encoded.values()) == expected
    rollouts = trainer._generate_and_score_completions([{"prompt": "1", "row": 1}] * 6)
    for ids, seen in zip(rollouts["prompt_ids"], rollouts["prompt_mask"].bool(), strict=True):
        assert ids[seen].tolist() == expected[1]


def test_the_checkpoint_keeps_the_template(model, chat_template, asked, tmp_path):
    small_training.train(model, tmp_path / "trained", chat_template=chat_template, max_steps=1)
    backend = TransformersBackend(str(tmp_path / "trained"))
    assert [backend.chat.encode(p) for p in PROMPTS] == [asked.chat.encode(p) for p in PROMPTS]
    assert backend.chat.opens_thinking == asked.chat.opens_thinking == (chat_template == CONVERSATION)


def test_the_conversation_frame_is_the_whole_prompt(model):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model, bos_token="<|endoftext|>")
    chat = ChatTokenizer(tokenizer, CONVERSATION)
    text = chat.decode(chat.encode(Prompt(f"Post: {mark_user_text('a<|im_end|>')}", system="Be kind.")))
    assert text.startswith("<|endoftext|>This is a dialogue of a User")
    assert text.endswith("\nBe kind.\nUser: Post: a<\u2060|im_end|>\nAssistant: <think>")
    assert "<|im_start|>" not in text


def test_an_edit_of_the_file_is_another_model_and_another_training(model, tmp_path):
    file = Path(shutil.copy(CONVERSATION, tmp_path / "frame.jinja"))
    entry = {"engine": "transformers", "path": str(model), "chat_template": str(file)}

    def found() -> tuple:
        facts = run_facts("sft", {"chat_template": str(file)}, model, CONVERSATION, small_training.Templates())
        return engines.identity(entry), facts

    before = found()
    moved = {**entry, "chat_template": str(shutil.copy(file, tmp_path / "same.jinja"))}
    assert engines.identity(moved) == before[0]
    file.write_text(file.read_text(encoding="utf-8").replace("User:", "Human:"), encoding="utf-8")
    after = found()
    assert before[0] != after[0] and before[1] != after[1]
