"""The real workflow on a small world, judged by the test server; no model is trained."""

import hashlib
from typing import Any

from alignxplore.prompts import JUDGE_CHOICES, JUDGE_PREFILL
from configs import merged
from faulty_server import Server, answer

KEY = "SERVED_KEY"
METHODS = ("golden",)
COLUMNS = {"pairs": ["alignx_test"], "style and expertise": ["psoups_style", "psoups_expertise"]}


def verdict(body: dict[str, Any]) -> dict[str, Any]:
    """The reply of a judge that selects at random by prompt and seed, both in its text and in its log-probabilities."""
    reply = answer(body)
    coin = hashlib.sha256(f"{body['messages'][0]['content']} {body.get('seed')}".encode()).digest()[0]
    selected, other = (JUDGE_CHOICES, JUDGE_CHOICES[::-1])[coin % 2]
    reply["choices"][0]["message"]["content"] = f'{JUDGE_PREFILL}{selected}"}}'
    texts = (JUDGE_PREFILL, selected)
    reply["choices"][0]["logprobs"]["content"] = [
        {
            "token": text,
            "logprob": -0.2,
            "bytes": None,
            "top_logprobs": [
                {"token": selected, "logprob": -0.2, "bytes": None},
                {"token": other, "logprob": -1.7, "bytes": None},
            ],
        }
        for text in texts
    ]
    return reply


def served_config(server: Server) -> dict[str, Any]:
    """The default configuration with a small world, one method that asks no model, and a served judge."""
    config = merged()
    config["demo"]["population"] = {"pairs": 300, "ugc": 100, "sparse": 10, "inconsistent": 10, "broken": 0}
    config["demo"]["psoups_cases"] = 6
    config["data"]["alignx"]["shards"] = 1
    for split in config["data"]["splits"].values():
        if "source" not in split:
            split["size"] = 20
    config["data"]["splits"]["test"]["share"] = 60
    endpoint = {"engine": "openai", "path": "gpt", "base_url": server.url, "prefill": "ask"}
    config["models"]["served"] = {**endpoint, "run": {"key_env": KEY}}
    benchmarks = sum(COLUMNS.values(), [])
    config["judges"]["judge"] = {"kind": "jud", "model": "served", "benchmarks": benchmarks}
    for entry in config["methods"].values():
        entry["tables"] = []
    for method in METHODS:
        config["methods"][method].update(benchmarks=benchmarks, tables=["served"])
    columns = {name: {"judge": "judge", "benchmarks": pooled} for name, pooled in COLUMNS.items()}
    table = {"kind": "accuracy", "title": "Judged by a server", "columns": columns}
    config.update(tables={"served": table}, figures={}, resamples=200)
    config.pop("case_study", None)
    for judge in ("judge2", "gen"):
        config["judges"].pop(judge)
    for name in ("lminductreason", "pba", "vpl"):
        config["methods"].pop(name)
    config["training"]["variants"]["r_gen"]["judge"] = "judge"
    return config
