"""Every table of a finished run equals what pandas computes from the same Parquet files."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from alignxplore.workflow.config import table_methods
from configs import merged
from scipy import stats

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tree):
    return tree, merged()


def tables_of(config, kind):
    return {
        name: {**entry, "methods": table_methods(config, name)}
        for name, entry in config["tables"].items()
        if entry["kind"] == kind
    }


def outcomes(tree, judge, method, benchmarks):
    frame = pd.read_parquet(tree / f"results/judgements/{judge}/{method}.parquet")
    frame = frame[frame.benchmark.isin(benchmarks)]
    return frame.sort_values(["benchmark", "case_id"]).reset_index(drop=True)


def close(value):
    return pytest.approx(value, abs=0.0051)


def test_benchmarks_table(run):
    tree, config = run
    for name, entry in tables_of(config, "benchmarks").items():
        table = pd.read_csv(tree / f"results/{name}.csv").set_index("benchmark")
        assert list(table.index) == entry["benchmarks"]
        for benchmark, row in table.iterrows():
            cases = pd.read_parquet(tree / f"data/cases/{benchmark}.parquet")
            signs = np.stack(cases.direction.to_list())
            assert row["n"] == len(cases) and row["dimensions"] == (signs != 0).any(0).sum()
            assert (row["preferred"], row["non_preferred"]) == ((signs > 0).sum(), (signs < 0).sum())
            assert row["pairs_per_case"] == cases.pairs.map(len).mean()
            assert row["ugc_per_case"] == cases.ugc.map(len).mean()
            assert row["in_domain"] == benchmark.startswith("alignx")


def test_accuracy_tables(run):
    tree, config = run
    cells = 0
    for name, entry in tables_of(config, "accuracy").items():
        table = pd.read_csv(tree / f"results/{name}.csv").set_index(["method", "column"])
        assert len(table) == len(entry["methods"]) * len(entry["columns"])
        labels = {method: config["methods"][method]["label"] for method in entry["methods"]}
        ranked = [m for m in entry["methods"] if not config["methods"][m].get("reference")]
        found = {}
        for title, column in entry["columns"].items():
            own = {m: outcomes(tree, column["judge"], m, column["benchmarks"]) for m in entry["methods"]}
            found[title] = own
            best = max(ranked, key=lambda method, own=own: own[method].correct.mean())
            for method, frame in own.items():
                row = table.loc[labels[method], title]
                decided = (frame.p_chosen_ab + frame.p_chosen_ba != 1).any()
                expected = close(100 * frame.correct.mean()) if decided else pytest.approx(np.nan, nan_ok=True)
                assert row["n"] == len(frame) and row["percent"] == expected
                assert row["position_flip"] == close(100 * frame.position_flip.mean())
                assert row["ties"] == close(100 * (frame.p_chosen_ab + frame.p_chosen_ba == 1).mean())
                said = pd.read_parquet(tree / f"results/preferences/{method}.parquet") if method != "vpl" else None
                if said is None or not said.completion_tokens.any():
                    assert np.isnan(row["in_format"])
                else:
                    said = said[said.benchmark.isin(column["benchmarks"])]
                    assert row["in_format"] == close(100 * said.format_ok.astype(bool).mean())
                is_best = method in ranked and frame.correct.mean() == own[best].correct.mean()
                assert (row["mark"] == "best") == is_best
                if method == best:
                    assert np.isnan(row["p_value"])
                elif (own[best].correct != frame.correct).any():
                    p_value = stats.ttest_rel(own[best].correct.astype(float), frame.correct.astype(float)).pvalue
                    assert row["p_value"] == pytest.approx(p_value, rel=1e-3)
                if "null" in own and method != "null" and decided and not np.isnan(table.loc["Null", title].percent):
                    assert row["harmed"] == close(100 * (own["null"].correct & ~frame.correct).mean())
                else:
                    assert np.isnan(row["harmed"])
                if "change_from" in column:
                    before = found[column["change_from"]][method].correct.mean()
                    assert row["change"] == close(100 * (frame.correct.mean() - before))
                cells += 1
    assert cells > 100


def test_win_rate_tables(run):
    tree, config = run
    for name, entry in tables_of(config, "win_rates").items():
        table = pd.read_csv(tree / f"results/{name}.csv").set_index(["method", "column"])
        groups, key = config["online"]["groups"], ["benchmark", "case_id"]
        assert len(table) == len(groups) * len(entry["methods"]) * (len(entry["methods"]) - 1)
        for first, second in combinations(entry["methods"], 2):
            wins = pd.read_parquet(tree / f"results/wins/{first}/{second}.parquet")
            for group, benchmarks in groups.items():
                own = wins[wins.benchmark.isin(benchmarks)]
                won = own.outcome.map({"a": 1.0, "tie": 0.5, "b": 0.0}).mean()
                labels = [config["methods"][method]["label"] for method in (first, second)]
                for me, other, share in ((0, 1, won), (1, 0, 1 - won)):
                    row = table.loc[labels[me], f"{group}, against {labels[other]}"]
                    assert row["n"] == len(own) and row["percent"] == close(100 * share)
                    assert row["ties"] == close(100 * (own.outcome == "tie").mean())
                    # The default's judges give probabilities, so no order is unparsed. Equal responses cannot disagree.
                    texts = [pd.read_parquet(tree / f"results/responses/{m}.parquet") for m in (first, second)]
                    both = own.merge(texts[0], on=key).merge(texts[1], on=key)
                    disagree = ((both.p_a_ab > 0.5) != (both.p_a_ba > 0.5)) & (both.response_x != both.response_y)
                    assert row["disagreements"] == close(100 * disagree.mean()) and row["unparsed"] == 0


def test_judges_table(run):
    tree, config = run
    for name, entry in tables_of(config, "judges").items():
        table = pd.read_csv(tree / f"results/{name}.csv").set_index("judge")
        verdicts = {
            judge: pd.concat([outcomes(tree, judge, m, entry["benchmarks"]) for m in entry["methods"]])
            for judge in entry["judges"]
        }
        first = verdicts[entry["judges"][0]]
        for judge in entry["judges"][1:]:
            own, row = verdicts[judge], table.loc[judge]
            assert row["verdicts"] == len(own)
            assert row["agreement"] == close(100 * (own.correct.to_numpy() == first.correct.to_numpy()).mean())
            means = [side.groupby("method").correct.mean() for side in (own, first)]
            assert row["kendall_tau"] == pytest.approx(means[0].corr(means[1], method="kendall"), abs=1e-4)


def test_validity_tables(run):
    tree, config = run
    names = {entry["kind"]: name for name, entry in config["methods"].items()}
    for name, entry in tables_of(config, "validity").items():
        table = pd.read_csv(tree / f"results/{name}.csv")
        assert len(table) > len(entry["judges"]), "a judge may have several benchmarks"
        for row in table.to_dict("records"):
            found = {
                kind: outcomes(tree, row["judge"], names[kind], [row["benchmark"]])
                for kind in ("golden", "opposite", "shuffled", "none")
            }
            golden = found["golden"].merge(pd.read_parquet(tree / f"data/cases/{row['benchmark']}.parquet"))
            assert row["n"] == len(golden)
            for kind, own in found.items():
                assert row["null" if kind == "none" else kind] == close(100 * own.correct.mean())
            gained = 100 * (golden.correct.astype(int) - found["opposite"].correct.astype(int)).mean()
            assert row["discrimination"] == close(gained)
            assert row["discrimination_low"] <= gained <= row["discrimination_high"]
            longer_by = golden.chosen.str.len() - golden.rejected.str.len()
            assert row["longer"] == close(100 * golden.correct[longer_by > 0].mean())
            assert row["shorter"] == close(100 * golden.correct[longer_by < 0].mean())
            fit = sm.Logit(golden.correct.astype(float), sm.add_constant(longer_by / longer_by.std())).fit(disp=0)
            assert row["length_controlled"] == close(100 / (1 + np.exp(-fit.params["const"])))
