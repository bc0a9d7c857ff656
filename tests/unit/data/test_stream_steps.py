"""Which signals of a stream's step are those of a chunk."""

from alignxplore.data.streams import last_chunk, signal_count, span

ROW = {"pairs": ["p1", "p2", "p3"], "ugc": ["u4", "u5"], "chunks": [2, 3]}


def signals(row: dict) -> list[str]:
    return row["pairs"] + row["ugc"]


def test_every_span_of_pairs_and_comments():
    everything = signals(ROW)
    for start in range(6):
        for stop in range(start, 7):
            assert signals(span(ROW, start, stop)) == everything[start:stop], (start, stop)
    assert signal_count(ROW) == 5


def test_the_last_chunk():
    assert last_chunk(ROW) == {"pairs": ["p3"], "ugc": ["u4", "u5"], "chunks": [2, 3]}
    assert signals(last_chunk({**ROW, "chunks": [5]})) == signals(ROW)
