"""The validity of judges against pandas and statsmodels on the same Parquet files."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import statsmodels.formula.api as smf
from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.judging.judge import Judge
from alignxplore.judging.offline import judge_preferences
from alignxplore.methods.descriptions import unwritten_rows
from alignxplore.prompts import Templates
from alignxplore.results import queries
from alignxplore.results.validity import COLUMNS, VALIDITY, validity_rows
from result_samples import SQL
from statsmodels.stats.inter_rater import cohens_kappa

METHODS = [
    {"name": f"my {kind}", "label": kind.title(), "kind": kind} for kind in ("none", "golden", "opposite", "shuffled")
]
ROWS = [("first", "b1"), ("first", "b2"), ("second", "b2")]
SKILL = {"golden": 0.8, "opposite": 0.3, "shuffled": 0.45, "none": 0.5}


@pytest.fixture
def files(tmp_path):
    """Verdicts of two judges over benchmarks of 90 cases that lean to the longer response.

    Each target has two cases, on which a judge mostly does the same.
    """
    rng = np.random.default_rng(5)
    luck = rng.random((45, len(ROWS), len(METHODS)))
    cases, judged = [], {}
    for benchmark in ("b1", "b2"):
        for number in range(90):
            chosen, rejected = ("x" * int(rng.integers(1, 6) * 10) for _ in range(2))
            common = {"case_id": f"{number:03}", "benchmark": benchmark}
            case = {"dimension": "", "direction": [], "pairs": [], "ugc": [], "prompt": "p", "golden_preference": "g"}
            case["rendered"] = case["profile"] = ""
            cases.append({**common, **case, **records.NO_STREAM, "chosen": chosen, "rejected": rejected})
            for place, (judge, of) in enumerate(ROWS):
                for column, method in enumerate(METHODS if of == benchmark else ()):
                    lean = 0.15 * np.sign(len(chosen) - len(rejected))
                    correct = bool(luck[number // 2, place, column] < SKILL[method["kind"]] + lean)
                    verdict = {
                        "method": method["name"],
                        "judge": judge,
                        # One in four of those that are not won has probabilities that average to one half.
                        "p_chosen_ab": 0.9 if correct else float(rng.choice([0.1, 0.5, 0.5, 0.2])),
                        "p_chosen_ba": 0.5,
                        "correct": correct,
                        "position_flip": bool(rng.random() < 0.3),
                        "unparsed": int(rng.integers(2)),
                        "format_ok": None,
                        "completion_tokens": 0,
                        "target": f"{benchmark} {number // 2}",
                    }
                    judged.setdefault((judge, method["name"]), []).append({**common, **verdict})
    records.write(pl.DataFrame(cases, schema=records.CASE), tmp_path / "cases.parquet", records.CASE)
    paths = []
    for (judge, method), rows in judged.items():
        paths.append(str(tmp_path / f"{judge}-{method}.parquet"))
        own = pl.DataFrame(rows, schema=records.JUDGEMENT).sample(fraction=1, shuffle=True, seed=1)
        records.write(own, paths[-1], records.JUDGEMENT)
    return paths, str(tmp_path / "cases.parquet")


def found_in(files, rows=ROWS):
    paths, cases = files
    columns = [{"name": f"{judge} {name}", "judge": judge, "benchmarks": [name]} for judge, name in rows]
    relations = {"methods": queries.methods_relation(METHODS), "columns": queries.columns_relation(columns)}
    return queries.query(f"{SQL}/validity.sql", {"judgements": paths, "cases": [cases]}, relations)


def in_pandas(files, judge, benchmark):
    """Verdicts of a judge on a benchmark with the lengths, by kind of description."""
    paths, cases = files
    frame = pd.concat([pd.read_parquet(path) for path in paths])
    frame = frame[(frame.judge == judge) & (frame.benchmark == benchmark)]
    frame = frame.merge(pd.read_parquet(cases)[["case_id", "benchmark", "chosen", "rejected"]])
    frame["longer_by"] = frame.chosen.str.len() - frame.rejected.str.len()
    kinds = frame.method.map({method["name"]: method["kind"] for method in METHODS})
    return {kind: own.set_index("case_id").sort_index() for kind, own in frame.groupby(kinds)}


def test_every_figure_equals_pandas_and_statsmodels(files):
    table = validity_rows(found_in(files), 500, 1)
    assert table.schema == VALIDITY and table.select("judge", "benchmark").rows() == ROWS
    for row in table.to_dicts():
        own = in_pandas(files, row["judge"], row["benchmark"])
        golden = own["golden"]
        assert row["n"] == len(golden) == 90
        for kind, name in COLUMNS.items():
            assert row[name] == pytest.approx(100 * own[kind].correct.mean(), abs=1e-4)
        gained = 100 * (golden.correct.astype(float) - own["opposite"].correct)
        assert row["discrimination"] == pytest.approx(gained.mean(), abs=1e-4)
        # The interval is over targets. Over cases it would be narrower by about 5 points on either side.
        by_target = gained.groupby(golden.target).mean()
        half = 1.96 * by_target.std() / np.sqrt(len(by_target))
        assert (row["discrimination_low"], row["discrimination_high"]) == pytest.approx(
            (gained.mean() - half, gained.mean() + half), abs=3
        )
        assert row["position_flip"] == pytest.approx(100 * golden.position_flip.mean(), abs=1e-4)
        tied = (golden.unparsed == 0) & (golden.p_chosen_ab == golden.p_chosen_ba)
        assert row["ties"] == pytest.approx(100 * tied.mean(), abs=1e-4) and tied.any()
        assert row["unparsed"] == pytest.approx(50 * golden.unparsed.mean(), abs=1e-4)
        longer, shorter = golden[golden.longer_by > 0], golden[golden.longer_by < 0]
        assert row["longer"] == pytest.approx(100 * longer.correct.mean(), abs=1e-4)
        assert row["shorter"] == pytest.approx(100 * shorter.correct.mean(), abs=1e-4)
        assert 0 < len(longer) + len(shorter) < 90, "equal lengths are in neither"
        data = golden.assign(won=golden.correct.astype(int), z=golden.longer_by / golden.longer_by.std(ddof=0))
        fit = smf.logit("won ~ z", data).fit(disp=0, tol=1e-12)
        at_zero = 100 * fit.predict(pd.DataFrame({"z": [0.0]}))[0]
        assert row["length_controlled"] == pytest.approx(at_zero, abs=1e-4)


def test_judges_agree_with_the_first_judge_of_the_benchmark(files):
    one, first, second = validity_rows(found_in(files), 50, 1).to_dicts()
    assert {one["agreement"], one["kappa"], first["agreement"], first["kappa"]} == {None}
    sides = [pd.concat(in_pandas(files, judge, "b2")).correct for judge in ("second", "first")]
    assert len(sides[0]) == 4 * 90 and sides[0].index.equals(sides[1].index)
    assert second["agreement"] == pytest.approx(100 * (sides[0] == sides[1]).mean(), abs=1e-4)
    assert second["kappa"] == pytest.approx(cohens_kappa(pd.crosstab(*sides)).kappa, abs=1e-4)


def test_a_description_under_which_no_case_is_decided_has_no_figures(files, tmp_path):
    """As R_gen of the empty description."""

    def undecided(*kinds):
        """The row of the second judge if no case is decided under these descriptions."""
        even = {"p_chosen_ab": 0.5, "p_chosen_ba": 0.5, "correct": False}
        turned = []
        for path in files[0]:
            table = records.read(path, records.JUDGEMENT)
            if any(f"second-my {kind}" in path for kind in kinds):
                table = table.with_columns(**{name: pl.lit(value) for name, value in even.items()})
            turned.append(str(tmp_path / f"even-{len(turned)}.parquet"))
            records.write(table, turned[-1], records.JUDGEMENT)
        return validity_rows(found_in((turned, files[1])), 50, 1).to_dicts()[2]

    row = undecided("none", "golden")
    empty = ["golden", "null", "discrimination", "discrimination_low", "longer", "shorter", "length_controlled"]
    assert {name: row[name] for name in empty} == dict.fromkeys(empty)
    sides = [in_pandas(files, judge, "b2") for judge in ("second", "first")]
    a, b = (pd.concat([side["opposite"], side["shuffled"]]).correct for side in sides)
    assert row["agreement"] == pytest.approx(100 * (a == b).mean(), abs=1e-4), "the other two are compared"
    nothing = undecided(*COLUMNS)
    assert {nothing[name] for name in [*empty, "opposite", "shuffled", "agreement", "kappa"]} == {None}


def test_verdicts_on_other_cases_are_refused(files, tmp_path):
    paths, cases = files
    short = str(tmp_path / "short.parquet")
    gone = next(path for path in paths if "second-my opposite" in path)
    records.write(records.read(gone, records.JUDGEMENT).head(40), short, records.JUDGEMENT)
    with pytest.raises(UserError, match=r"judge 'second' has verdicts on other cases of 'b2' \(opposite\)"):
        validity_rows(found_in(([short, *(path for path in paths if path != gone)], cases)), 50, 1)


class Longest:
    """An engine that always selects the longer response."""

    def choice_logprobs(self, prompts, choices):
        texts = [prompt.user.split("Response A: ")[1].split("Response B: ") for prompt in prompts]
        return np.array([[float(len(first) > len(second)), float(len(first) < len(second))] for first, second in texts])


def test_a_judge_of_length_is_found_out(tmp_path):
    """It is right whenever the chosen response is the longer one, whatever the description."""
    rng = np.random.default_rng(1)
    rows = [
        {
            "case_id": f"{number}",
            "benchmark": "b",
            "dimension": "",
            "direction": [],
            "pairs": [],
            "ugc": [],
            "rendered": "",
            "profile": "",
            **records.NO_STREAM,
        }
        | {"prompt": "p", "golden_preference": "g", "chosen": "x" * length, "rejected": "x" * 50}
        for number, length in enumerate(map(int, rng.permutation([*range(20, 50), *range(51, 101)])))
    ]
    cases = pl.DataFrame(rows, schema=records.CASE)
    records.write(cases, tmp_path / "cases.parquet", records.CASE)
    judge = Judge("jud", Longest(), Templates(judge="resources/prompts/judge.jinja"))
    paths = []
    for method in METHODS:
        said = unwritten_rows(rows, method["name"], [("", method["kind"])] * len(rows))
        paths.append(str(tmp_path / f"{method['kind']}.parquet"))
        records.write(judge_preferences(judge, "long", cases, said), paths[-1], records.JUDGEMENT)
    (row,) = validity_rows(found_in((paths, str(tmp_path / "cases.parquet")), [("long", "b")]), 50, 1).to_dicts()
    assert row["golden"] == row["opposite"] == row["null"] == 62.5
    assert (row["discrimination"], row["longer"], row["shorter"]) == (0.0, 100.0, 0.0)
    assert row["length_controlled"] is None, "length alone tells right from wrong"
