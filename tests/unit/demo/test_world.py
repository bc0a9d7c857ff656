"""The demo world plants preferences that can be found again, and refinement drops exactly the users that it should."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest
from alignxplore.data.api import read_alignx
from alignxplore.data.refine import Rules, refine
from alignxplore.demo.raw import Population, Users, write_alignx, write_psoups, write_streams
from alignxplore.demo.world import PSOUPS_DIMENSIONS, Lexicon, Reveal, World
from alignxplore.errors import UserError

ROOT = Path(__file__).parents[3]
LEXICON = ROOT / "resources/demo/lexicon.csv"
AXES = [str(index) for index in (3, 15, 16, 23, 31, 39, 47, 60, 65, 73, 74, 85)]
REVEAL = Reveal(0.3, 0.2, 0.4, 0.4)


def world(reveal: Reveal = REVEAL, seed: str = "test") -> World:
    return World(Lexicon.load(LEXICON), reveal, seed)


def test_labels_and_last_words_of_cues_are_unique():
    rows = list(csv.DictReader(LEXICON.open(encoding="utf-8")))
    words = [row["label"] for row in rows] + [cue.split()[-1] for row in rows for cue in row["cues"].split(";")]
    assert len(rows) == 2 * (90 + len(PSOUPS_DIMENSIONS))
    assert len(words) == len(set(words))


def test_error_names_the_missing_pole(tmp_path):
    text = LEXICON.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "lexicon.csv"
    path.write_text("\n".join(line for line in text if not line.startswith("73,-")), encoding="utf-8")
    with pytest.raises(UserError, match="'73', pole -"):
        Lexicon.load(path)


def test_chosen_shows_the_direction_and_rejected_its_opposite():
    here = world(Reveal(1.0, 1.0, 1.0, 0.5))
    direction = here.direction(AXES, 5)
    pair = here.pair(direction)
    assert dict(pair.chosen.shows) == direction
    assert dict(pair.rejected.shows) == {axis: -sign for axis, sign in direction.items()}
    for clause in (*pair.chosen.clauses, *pair.rejected.clauses):
        assert clause.text.lower() in (pair.chosen.text + pair.rejected.text).lower()
        assert clause.pole is None or clause.keyword in clause.text


def test_every_target_shows_something_of_its_user():
    here = world(Reveal(0.05, 0.05, 0.0, 0.4))
    direction = here.direction(AXES, 5)
    assert any(not (pair.chosen.shows or pair.rejected.shows) for pair in (here.pair(direction) for _ in range(50)))
    targets = [here.target(direction) for _ in range(50)]
    assert all(target.chosen.shows or target.rejected.shows for target in targets)


def test_texts_show_directions_at_the_configured_rates():
    here = world(Reveal(0.3, 0.1, 0.0, 0.25))
    direction = dict.fromkeys(AXES, 1)
    pairs = [here.pair(direction) for _ in range(400)]
    shown = [pole for pair in pairs for pole in pair.chosen.shows]
    assert len(shown) / (400 * len(AXES)) == pytest.approx(0.3, abs=0.03)
    assert sum(len(pair.rejected.shows) for pair in pairs) / (400 * len(AXES)) == pytest.approx(0.1, abs=0.03)
    named = sum(
        clause.keyword == here.lexicon.label(*clause.pole) for p in pairs for clause in p.chosen.clauses if clause.pole
    )
    assert named / len(shown) == pytest.approx(0.25, abs=0.05)


def test_refinement_keeps_exactly_the_consistent_users(tmp_path):
    population = Population(pairs=40, ugc=15, sparse=20, inconsistent=20, broken=8)
    jsonl, parquet = tmp_path / "part-0.jsonl", tmp_path / "part-1.parquet"
    total = write_alignx(Users(world(), AXES), population, jsonl, parquet)
    raw = json.loads(next(line for line in jsonl.read_text().splitlines() if line.endswith("}")))
    assert set(raw) == {
        "prompt",
        "chosen",
        "rejected",
        "Preference Direction",
        "Demographic Information",
        "User-Generated Content",
        "Pair-wise Comparative Feedback",
    }
    assert set(raw["Preference Direction"]) <= {0.0, 0.5, 1.0}
    examples, rejects = read_alignx([str(jsonl), str(parquet)])
    assert len(examples) + len(rejects) == total
    assert len(rejects) == population.broken
    refined, _ = refine(examples, Rules(5, 4))
    assert dict(refined.group_by("form").len().iter_rows()) == {"pairs": 40, "ugc": 15}
    assert refined.select((pl.col("consistent").list.eval(pl.element() != 0).list.sum() >= 5).all()).item()


def test_same_seed_writes_same_files(tmp_path):
    files = []
    for name in ("a", "b"):
        path = tmp_path / name
        write_psoups(world(Reveal(0.9, 0.6, 0.0, 0.4), "seed"), "style", 12, path)
        files.append(path.read_bytes())
    assert files[0] == files[1]
    records = json.loads(files[0])
    assert [record["ground_truth_persona"] for record in records] == ["This person: witty."] * 12 + [
        "This person: cold."
    ] * 12
    for record in records:
        signals = record["Pair-wise Comparative Feedback"]
        assert len(signals) == 4
        assert all(signal["prompt"] != record["prompt"] for signal in signals)


def test_long_histories_agree_with_their_target_and_do_not_depend_on_their_number(tmp_path):
    few, more = tmp_path / "few.jsonl", tmp_path / "more.jsonl"
    silent = Reveal(0.0, 0.0, 0.0, 0.4)
    for count, path in ((3, few), (9, more)):
        write_streams(Users(world(Reveal(1.0, 1.0, 1.0, 0.4)), AXES), count, 16, silent, path)
    assert more.read_text().startswith(few.read_text())
    examples, rejects = read_alignx(str(more))
    assert rejects.is_empty() and examples["pairs"].list.len().to_list() == [16] * 9
    poles = [word for row in csv.DictReader(LEXICON.open()) for word in (row["label"], *row["cues"].split(";"))]
    for row in examples.to_dicts():
        target = {place for place, sign in enumerate(row["direction"]) if sign}
        for pair in row["pairs"]:
            both = [place for place in target if pair["direction"][place]]
            assert len(both) >= 5 and all(pair["direction"][place] == row["direction"][place] for place in both)
            assert not any(word in pair["chosen"] for word in poles)
        assert any(word in row["chosen"] for word in poles)
