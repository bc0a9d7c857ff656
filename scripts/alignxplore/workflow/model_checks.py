"""What judges, methods and trainings need of models: checks of the configuration."""

from collections.abc import Iterator

from alignxplore.workflow.config import Config, variant_settings, variants
from alignxplore.workflow.data_checks import has_comments
from alignxplore.workflow.launcher import sharding, uses_deepspeed


def model_use_errors(config: Config) -> Iterator[str]:
    """Yield an error unless each judge, method and variant gets what it needs from its model."""
    models = config["models"]
    for name, entry in models.items():
        if entry["engine"] == "openai" and isinstance(entry.get("chat_template"), str):
            yield (
                f"models.{name}.chat_template: a server renders chats by its own template; start it with this file"
                " (vLLM: --chat-template FILE), or write options here"
            )
    for name, entry in config["judges"].items():
        if entry["kind"] == "jud" and "sampling" not in entry:
            yield from _logprobs_errors(
                f"judges.{name}", entry["model"], config, "give it sampling, so that it writes its answer"
            )
        asked = models[entry["model"]]
        if entry["kind"] == "gen" and asked["engine"] == "openai" and "tokenizer" not in asked:
            yield (
                f"judges.{name}.model: a chat endpoint cannot score responses. If {entry['model']!r} is vLLM, give"
                f" models.{entry['model']} a tokenizer; else judge with the engine transformers or vllm, or remove the"
                " judge"
            )
    for name, entry in config["methods"].items():
        key = f"methods.{name}"
        if entry["kind"] == "pba" and "model" in entry:
            yield from _logprobs_errors(f"methods.{name}", entry["model"], config, "choose another model")
        if entry["kind"] in ("vpl", "lminductreason"):
            for benchmark in entry.get("benchmarks", config["benchmarks"]):
                if has_comments(config, benchmark):
                    yield f"{key}.benchmarks: {benchmark!r} has no pairs to infer from"
        if entry["kind"] == "vpl":
            if name in variants(config):
                yield f"{key}: training.variants.{name} already makes models/trained/{name}; rename one"
            if models[entry["model"]]["engine"] != "transformers":
                yield f"{key}.model: {entry['model']!r} needs the engine 'transformers'"
    for key in _misplaced(config):
        yield f"{key}: belongs to the entry of the model that a variant starts from, `models.NAME`"
    for name, entry in variants(config).items():
        key, start = f"training.variants.{name}.from", models[entry["from"]]
        for ignored in start.keys() & {"today", "thoughts"}:
            yield f"{key}: training ignores {ignored}, which models.{entry['from']} has"
        if start["engine"] == "openai":
            yield (
                f"{key}: {entry['from']!r} is served (engine 'openai') and cannot be trained; name a model whose"
                " weights you have"
            )


def _misplaced(config: Config) -> Iterator[str]:
    """Keys of training settings that say what a model is, not how it is trained."""
    training = config.get("training", {})
    settings = {f"training.{stage}": training.get(stage, {}) for stage in ("sft", "grpo")}
    settings |= {f"training.variants.{n}.settings": entry.get("settings", {}) for n, entry in variants(config).items()}
    for key, values in settings.items():
        yield from (f"{key}.{name}" for name in ("adapter", "chat_template", "stop", "revision") if name in values)


def precision_errors(config: Config) -> Iterator[str]:
    """Yield the variants that would train reduced weights alone, in which most of Adam's small steps are rounded away.

    DeepSpeed keeps float32 weights beside them if it knows of the mixed precision, and peft makes an adapter's float32.
    """
    if not variants(config):
        return
    training = config["training"]
    has_deepspeed = uses_deepspeed(training["launch"])
    for name, entry in variants(config).items():
        own, stage = entry.get("settings", {}), entry["stage"]
        settings = variant_settings(config, name)
        if "quantize" in (settings.get("lora") or {}) and sharding(training["launch"])[0] == 3:
            yield (
                f"training.launch: ZeRO-3 cannot shard the quantised weights of variant {name}; launch with ZeRO-2, or"
                " leave lora.quantize out"
            )
        if settings.get("lora") is not None:
            continue
        dtype = settings.get("dtype", "float32")
        keeps_float32 = has_deepspeed or "deepspeed" in settings
        if dtype != "float32" and not (keeps_float32 and (settings.get("bf16") or settings.get("fp16"))):
            key = f"training.variants.{name}.settings.dtype" if "dtype" in own else f"training.{stage}.dtype"
            yield (
                f"{key}: small steps vanish in {dtype} weights (variant {name}); leave it float32 and set bf16: true,"
                " which DeepSpeed also accepts with another dtype"
            )


def _logprobs_errors(key: str, model: str, config: Config, advice: str) -> Iterator[str]:
    if config["models"][model].get("logprobs") is False:
        yield f"{key}.model: {model!r} gives no log-probabilities, which this needs: {advice}"
