"""One shard of the raw files, refined as it is read, and the gathering of all shards into one refined set."""

import logging
import re
from collections.abc import Sequence

import duckdb
import polars as pl

from alignxplore import records
from alignxplore.data.alignx import stable_hash
from alignxplore.data.blocks import read_piece
from alignxplore.data.refine import Rules, assemble, select
from alignxplore.data.sources import Piece
from alignxplore.errors import UserError

log = logging.getLogger(__name__)

FILES = {
    "candidates": records.CANDIDATE,
    "rejects": records.REJECT,
    "seen": records.SEEN,
    "lines": records.LINES,
    "funnel": records.FUNNEL,
}
"""What a shard leaves behind. Lines are counted from where its piece of the source begins."""

CANDIDATE_KEYS = ["source", "line", "form", "target"]


def refine_shard(pieces: Sequence[Piece], rules: Rules, max_characters: int, outputs: dict[str, str]) -> None:
    """Read the pieces a block at a time, and write the shard's FILES to `outputs`, by name."""
    rejects: list[tuple[str, int, str, str]] = []
    seen, lines, funnel = [records.SEEN.to_frame()], [], [records.FUNNEL.to_frame()]
    with (
        records.Writer(outputs["candidates"], records.CANDIDATE) as candidates,
        duckdb.connect(config={"threads": 1}) as connection,
    ):
        for piece in pieces:
            last = total = 0
            for number, read, block, bad in read_piece(piece, max_characters):
                last = number
                selected, counts = select(block.directions, rules, connection)
                examples = block.examples(selected["number"].unique())
                candidates.write(_candidates(assemble(examples, selected), piece.path))
                rejects += [(piece.path, *reject) for reject in bad]
                seen.append(
                    block.fingerprints.select(
                        pl.lit(piece.path).alias("source"), pl.col("number").alias("line"), "fingerprint"
                    )
                )
                funnel += [pl.DataFrame([("raw records", read)], records.FUNNEL, orient="row"), counts]
                total += read
            lines.append((piece.path, last))
            log.info("%s: %d records", piece, total)
    totals = pl.concat(funnel).group_by("step", maintain_order=True).agg(pl.col("rows").sum())
    tables = {
        "rejects": pl.DataFrame(rejects, schema=records.REJECT, orient="row"),
        "seen": pl.concat(seen),
        "lines": pl.DataFrame(lines, schema=records.LINES, orient="row"),
        "funnel": totals,
    }
    for name, table in tables.items():
        records.write(table, outputs[name], FILES[name])


def _candidates(rows: pl.DataFrame, source: str) -> pl.DataFrame:
    keys = [stable_hash(_plain(*texts)) for texts in rows.select("prompt", "chosen", "rejected").iter_rows()]
    return rows.rename({"number": "line"}).with_columns(
        pl.lit(source).alias("source"), pl.Series("target", keys, dtype=pl.String)
    )


def _plain(*texts: str) -> str:
    """Texts without case, punctuation and spaces: equal for targets that a reader would call the same."""
    return "\n".join(re.sub(r"[\W_]+", "", text.casefold()) or text for text in texts)


def gather(
    shards: Sequence[dict[str, str]],
    max_reject_share: float,
    refined: str,
    rejects: str,
    funnel: str,
    kept_rejects: str,
) -> None:
    """Join the shards, given in order by the paths of their FILES, into REFINED, REJECT and the funnel (CSV).

    A record with the texts of an earlier one becomes a reject. Of the candidates, those go whose target
    an earlier candidate of the same form has in all but case, punctuation and spaces. Raises UserError where more than
    `max_reject_share` of the records are rejects, which are then at `kept_rejects`, or where there are no records.
    """
    tables = {
        name: [records.read(shard[name], FILES[name]) for shard in shards]
        for name in ("rejects", "seen", "lines", "funnel")
    }
    begins = _line_offsets(tables["lines"])
    seen = _numbered(tables["seen"], begins)
    first = seen.filter(pl.col("fingerprint").is_first_distinct())
    copies = seen.join(first, on=["source", "line"], how="anti").join(
        first, on="fingerprint", suffix="_first", maintain_order="left"
    )
    duplicates = copies.select(
        "source",
        "line",
        field=pl.lit("record"),
        reason=pl.format("duplicate of {}:{}", "source_first", "line_first"),
    )
    sources = pl.DataFrame(
        {"source": list(dict.fromkeys(source for table in tables["lines"] for source in table["source"]))}
    )
    bad = pl.concat([_numbered(tables["rejects"], begins), duplicates])
    bad = sources.with_row_index("place").join(bad, on="source").sort("place", "line").drop("place")
    counts = pl.concat(tables["funnel"]).group_by("step", maintain_order=True).agg(pl.col("rows").sum())
    _check_reject_share(dict(counts.rows()).get("raw records", 0), bad, max_reject_share, kept_rejects)

    keys = _numbered([records.read(s["candidates"], records.CANDIDATE, CANDIDATE_KEYS) for s in shards], begins)
    unique = keys.join(duplicates, on=["source", "line"], how="anti").filter(
        pl.struct("form", "target").is_first_distinct()
    )
    with records.Writer(refined, records.REFINED) as writer:
        for index, shard in enumerate(shards):
            for batch in records.batches(shard["candidates"], records.CANDIDATE):
                numbered = batch.join(begins[index], on="source").with_columns(pl.col("line") + pl.col("begin"))
                writer.write(
                    numbered.join(unique, on=["source", "line", "form"], how="semi").select(records.REFINED.names())
                )
    kept = [
        (f"{form}: no earlier example has the same target", unique.filter(pl.col("form") == form).height)
        for form in keys["form"].unique().sort()
    ]
    records.write(bad, rejects, records.REJECT)
    with records.replacing(funnel) as path:
        _with_losses(pl.concat([counts, pl.DataFrame(kept, schema=records.FUNNEL, orient="row")])).write_csv(path)
    log.info("%d refined examples; %d raw records rejected", unique.height, bad.height)


def _with_losses(funnel: pl.DataFrame) -> pl.DataFrame:
    """The funnel with what each rule has lost of what the rule before it, of the same form, left."""
    form = pl.col("step").str.extract("^(pairs|ugc): ")
    ordered = funnel.with_columns(form=form).sort("form", nulls_last=False, maintain_order=True)
    whole = ordered.filter(pl.col("form").is_null())["rows"].last()
    first = pl.when(pl.col("form").is_null()).then("rows").otherwise(whole)
    before = pl.col("rows").shift().over("form").fill_null(first)
    return ordered.with_columns(lost=before - pl.col("rows")).drop("form")


def _line_offsets(lines: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """Of each shard: source, and the number of lines of the source that earlier shards have read (begin)."""
    total: dict[str, int] = {}
    offsets = []
    for table in lines:
        offsets.append(
            table.select("source", begin=pl.Series([total.get(s, 0) for s in table["source"]], dtype=pl.Int64))
        )
        for source, count in table.rows():
            total[source] = total.get(source, 0) + count
    return offsets


def _numbered(tables: Sequence[pl.DataFrame], begins: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The shards' rows, with lines counted from the beginning of their source."""
    joined = [
        table.join(begin, on="source", maintain_order="left") for table, begin in zip(tables, begins, strict=True)
    ]
    return pl.concat(joined).with_columns(pl.col("line") + pl.col("begin")).drop("begin")


def _check_reject_share(total: int, rejects: pl.DataFrame, max_share: float, kept: str) -> None:
    if total == 0:
        raise UserError("the AlignX sources hold no records: see data.alignx.sources")
    if rejects.height > max_share * total:
        records.write(rejects, kept, records.REJECT)
        first = rejects.row(0, named=True)
        raise UserError(
            f"{rejects.height} of {total} raw records were rejected, more than"
            f" data.alignx.max_reject_share = {max_share} allows; the first is"
            f" {first['source']}:{first['line']}: {first['field']}: {first['reason']};"
            f" all are in {kept}"
        )
