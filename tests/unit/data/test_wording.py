from pathlib import Path

import pytest
from alignx_samples import direction
from alignxplore.data.wording import Wording, dimension_names
from alignxplore.errors import UserError

RESOURCES = Path(__file__).parents[3] / "resources"


def test_describes_non_neutral_directions_in_order():
    wording = Wording.load(RESOURCES / "wording.csv")
    text = wording.describe(direction(d73=1, d0=-1, d4=1))
    assert text == "This person: older, high openness, likes humor."
    assert wording.describe(direction()) == ""


def test_describes_one_psoups_dimension():
    wording = Wording.load(RESOURCES / "wording.csv")
    for name in ("expertise", "informativeness", "style"):
        up, down = wording.describe([1], name), wording.describe([-1], name)
        assert up != down and up.endswith(".")


def test_all_phrases_differ():
    wording = Wording.load(RESOURCES / "wording.csv")
    phrases = [wording.phrase(str(i), sign) for i in range(90) for sign in (1, -1)]
    assert len(set(phrases)) == 180
    assert not any("," in phrase for phrase in phrases)


def test_wording_keeps_to_the_dimension_names():
    names = dimension_names(RESOURCES / "dimensions.csv")
    wording = Wording.load(RESOURCES / "wording.csv")
    assert len(names) == len(set(names)) == 90
    assert [wording.phrase(str(i), 1) for i in range(47, 90)] == [f"likes {n}" for n in names[47:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:40], "no row for dimension 39"),
        (lambda lines: [*lines, "3,a,b"], "95: dimension '3' occurs twice"),
        (lambda lines: [*lines[:-1], "style,,b"], "94: .* must not be empty"),
        (lambda lines: ["dimension,positive", *lines[1:]], "column 'negative' is missing"),
    ],
)
def test_a_broken_file_is_named(tmp_path, change, message):
    lines = (RESOURCES / "wording.csv").read_text().splitlines()
    path = tmp_path / "w.csv"
    path.write_text("\n".join(change(lines)))
    with pytest.raises(UserError, match=f"w.csv.*{message}"):
        Wording.load(path)


def test_missing_files_and_wrong_lengths(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        dimension_names(tmp_path / "none.csv")
    (tmp_path / "d.csv").write_text("index,name\n0,Age\n")
    with pytest.raises(UserError, match="no name for dimension 1"):
        dimension_names(tmp_path / "d.csv")
    with pytest.raises(ValueError):
        Wording.load(RESOURCES / "wording.csv").describe([1])
