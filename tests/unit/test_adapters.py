"""An adapter is a model of its own: in the journal, in records, in plans, and where it is published."""

import json
import shutil
from pathlib import Path

import pytest
from alignxplore import adapters, engines
from alignxplore.digests import directory_digest
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt
from alignxplore.results.publish import model_files
from alignxplore.workflow import provenance
from alignxplore.workflow.config import made_directories, makes_adapter
from alignxplore.workflow.config_checks import check_config
from configs import merged
from random_models import random_adapter

SCHEMA = Path(__file__).parents[2] / "config/schema.yaml"


@pytest.fixture
def base(tiny_model, tmp_path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "base")


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    return random_adapter(tmp_path / "adapter", base)


def edit(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_the_identity_has_the_base_and_the_adapter(base, adapter, tmp_path):
    entry = {"engine": "transformers", "path": str(base)}
    with_adapter = {**entry, "adapter": str(adapter)}
    known = [engines.identity(entry), engines.identity(with_adapter)]
    assert known[1] == {**known[0], "adapter": directory_digest(adapter)}
    assert engines.identity({**entry, "path": str(adapter)}) == known[1], "its own directory is the same model"
    other = random_adapter(tmp_path / "other", base, alpha=9)
    known.append(engines.identity({**entry, "adapter": str(other)}))
    edit(base / "config.json", rms_norm_eps=1e-5)
    known += [engines.identity(entry), engines.identity(with_adapter)]
    assert len({json.dumps(identity) for identity in known}) == len(known)


def test_a_base_on_the_hub_counts_with_its_revision(adapter):
    edit(adapter / "adapter_config.json", base_model_name_or_path="owner/name", revision="abc")
    identity = engines.identity({"engine": "vllm", "path": str(adapter)})
    assert (identity["path"], identity["revision"]) == ("owner/name", "abc")


def test_a_record_names_the_base_and_the_adapter(base, adapter):
    expected = [{"path": str(path), "sha256": directory_digest(path)} for path in (base, adapter)]
    assert provenance._models({"model": {"path": str(adapter)}}) == expected
    judge = {"model": {"path": str(base), "adapter": str(adapter)}}
    assert provenance._models({"model": {"path": str(base)}, "judge": judge}) == expected


def test_an_adapter_asks_with_its_own_tokenizer_or_its_bases(base, adapter):
    prompt = Prompt("likes humor")

    def asked(**entry) -> str:
        chat = TransformersBackend(**entry).chat
        return chat.tokenizer.decode(chat.encode(prompt))

    plain = asked(path=str(base))
    assert asked(path=str(base), adapter=str(adapter)) == plain
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / file, adapter)
    (adapter / "chat_template.jinja").write_text("Q: {{ messages[0]['content'] }} A:")
    assert asked(path=str(base), adapter=str(adapter)) == asked(path=str(adapter)) == "Q: likes humor A:" != plain


def test_adapters_do_not_stack(base, adapter):
    with pytest.raises(UserError, match="is an adapter itself"):
        TransformersBackend(str(adapter), adapter=str(adapter))
    with pytest.raises(UserError, match=f"adapter {base}: adapter_config.json is not there"):
        TransformersBackend(str(base), adapter=str(base))


def test_the_rank_is_the_highest_of_all_matrices(adapter):
    assert adapters.rank(adapter) == 4
    edit(adapter / "adapter_config.json", rank_pattern={"q_proj": 20})
    assert adapters.rank(adapter) == 20


def test_an_adapter_is_published_if_others_have_its_base(adapter):
    (adapter / "README.md").write_text("# adapter\n")
    with pytest.raises(UserError, match="a directory that others do not have; publish that"):
        model_files(adapter)
    edit(adapter / "adapter_config.json", base_model_name_or_path="owner/name")
    assert set(model_files(adapter)) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}


def with_lora(**settings) -> dict:
    config = merged("demo")
    config["training"]["sft"]["lora"] = {"r": 4, **settings}
    config["training"]["grpo"]["lora"] = {}
    return config


def test_a_plan_has_the_bases_of_adapters():
    config = with_lora()
    model = config["models"]["alignxplore"]
    assert made_directories(config, model) == [
        "models/trained/alignxplore",
        "models/trained/no_rl",
        "models/demo/backbone",
    ]
    config["training"]["grpo"]["lora"] = None
    assert made_directories(config, model) == ["models/trained/alignxplore"]
    merging = with_lora(merge=True)
    assert not makes_adapter(merging, "no_rl")
    assert made_directories(merging, model) == ["models/trained/alignxplore", "models/trained/no_rl"]


def test_entries_with_adapters_are_accepted():
    config = with_lora()
    config["models"]["tuned"] = {
        "engine": "vllm", "path": "models/demo/backbone", "adapter": "models/trained/no_rl",
    }  # fmt: skip
    check_config(config, SCHEMA)
    assert made_directories(config, config["models"]["tuned"]) == ["models/demo/backbone", "models/trained/no_rl"]


@pytest.mark.parametrize(("entry", "settings", "message"), [
    ({"adapter": "models/trained/no_rl"}, {"merge": True}, "models.x.adapter: .*no_rl makes a whole model"),
    ({"adapter": "models/gone"}, {}, "models.x.adapter: 'models/gone' is no directory with an adapter"),
    ({"adapter": "models/trained/no_rl", "path": "models/trained/r_gen"}, {}, "models.x.path: .* is an adapter itself"),
    ({"adapter": "models/trained/no_rl", "engine": "openai"}, {}, "models.x.adapter"),
])  # fmt: skip
def test_a_wrong_adapter_is_named(entry, settings, message):
    config = with_lora(**settings)
    config["models"]["x"] = {"engine": "transformers", "path": "models/demo/backbone", **entry}
    with pytest.raises(UserError, match=message):
        check_config(config, SCHEMA)


def test_reduced_weights_may_be_the_base_of_an_adapter():
    config = with_lora()
    config["training"]["sft"]["dtype"] = "bfloat16"
    check_config(config, SCHEMA)
    config["training"]["sft"]["lora"] = None
    with pytest.raises(UserError, match="training.sft.dtype: small steps vanish"):
        check_config(config, SCHEMA)
