"""The same judgements by several backends: accuracy, ties, and the greatest difference from float32.

For each backend, in an environment that has it, write its judgements of a P-SOUPS file; then compare:

    python tests/speed/backends.py judge float32.json FILE POSITIVE '{"engine": "transformers", "path": "MODEL"}'
    python tests/speed/backends.py judge bfloat16.json FILE POSITIVE '{"engine": "vllm", "path": "MODEL", ...}'
    python tests/speed/backends.py compare float32.json bfloat16.json ...
"""

import json
import sys
from pathlib import Path

import numpy as np
from alignxplore import engines
from alignxplore.data.benchmarks import psoups_cases, sample
from alignxplore.data.psoups import Signals
from alignxplore.errors import UserError
from alignxplore.judging.judge import Judge, is_correct
from alignxplore.prompts import Templates

CASES = 40
TEMPLATES = Path(__file__).parents[2] / "resources/prompts"


def judge(output: str, file: str, positive: str, entry: str) -> None:
    """Write the probabilities of the chosen responses under the golden preference, by R_jud and R_gen."""
    cases = sample(psoups_cases(file, "psoups", "dimension", positive, Signals(4, 1)), CASES)
    templates = Templates(judge=TEMPLATES / "judge.jinja", respond=TEMPLATES / "respond.jinja")
    engine = engines.load(json.loads(entry))
    rows, golden = list(cases.iter_rows(named=True)), cases["golden_preference"].to_list()
    found = {}
    for kind in ("jud", "gen"):
        try:
            found[kind] = Judge(kind, engine, templates).p_chosen(rows, golden).tolist()
        except UserError as error:
            print(f"R_{kind}: {error}")
    Path(output).write_text(json.dumps(found))


def compare(*files: str) -> None:
    """Print a line per file and kind of judge; the first file is the one that others are compared with."""
    read = {file: json.loads(Path(file).read_text()) for file in files}
    print(f"{'':28} accuracy  ties  unparsed  greatest difference of log-odds")
    for kind in ("jud", "gen"):
        first = np.array(read[files[0]][kind])
        for file, found in read.items():
            if kind not in found:
                print(f"R_{kind} {Path(file).stem:22} not available")
                continue
            p = np.array(found[kind])
            ties = int(np.sum(np.nan_to_num(p, nan=-1).mean(1) == 0.5))
            difference = np.nanmax(np.abs(np.log(p / (1 - p)) - np.log(first / (1 - first))))
            line = f"{100 * is_correct(p).mean():7.1f} {ties:5} {int(np.isnan(p).sum()):9}  {difference:.2g}"
            print(f"R_{kind} {Path(file).stem:22} {line}")


if __name__ == "__main__":
    {"judge": judge, "compare": compare}[sys.argv[1]](*sys.argv[2:])
