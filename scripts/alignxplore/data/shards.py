"""Refine the raw files shard by shard, and gather the shards into one file."""

import logging
import re
from collections.abc import Sequence

import polars as pl

from alignxplore import records
from alignxplore.data.alignx import stable_hash
from alignxplore.data.reader import read_piece
from alignxplore.data.refine import Rules, refine
from alignxplore.data.rejects import check_reject_share
from alignxplore.data.sources import Piece

log = logging.getLogger(__name__)

FILES = {
    "candidates": records.CANDIDATE,
    "rejects": records.REJECT,
    "seen": records.SEEN,
    "lines": records.LINES,
    "funnel": records.FUNNEL,
}
"""The files that a shard writes. Their line numbers start at 1 in each piece."""


def refine_shard(pieces: Sequence[Piece], rules: Rules, max_characters: int, outputs: dict[str, str]) -> None:
    """Read and refine the pieces of a shard in blocks, and write FILES to `outputs`, by name."""
    rejects: list[tuple[str, int, str, str]] = []
    seen, lines, funnel = [records.SEEN.to_frame()], [], [records.FUNNEL.to_frame()]
    with records.Writer(outputs["candidates"], records.CANDIDATE) as candidates:
        for piece in pieces:
            last = total = 0
            for block in read_piece(piece, max_characters):
                refined, steps = refine(block.examples, rules)
                candidates.write(_candidates(refined, piece.path))
                rejects += [(piece.path, *reject) for reject in block.rejects]
                fingerprint = pl.col("example_id").str.to_integer(base=16, dtype=pl.UInt64)
                seen.append(block.examples.select(source=pl.lit(piece.path), line="line", fingerprint=fingerprint))
                funnel += [pl.DataFrame([("raw records", block.records)], records.FUNNEL, orient="row"), steps[1:]]
                last, total = block.last, total + block.records
            lines.append((piece.path, last))
            log.info("%s: %d records", piece, total)
    tables = {
        "rejects": pl.DataFrame(rejects, records.REJECT, orient="row"),
        "seen": pl.concat(seen),
        "lines": pl.DataFrame(lines, records.LINES, orient="row"),
        "funnel": _summed(funnel),
    }
    for name, table in tables.items():
        records.write(table, outputs[name], FILES[name])


def gather(
    shards: Sequence[dict[str, str]],
    max_reject_share: float,
    refined: str,
    rejects: str,
    funnel: str,
    kept_rejects: str,
) -> None:
    """Join the shards, given in order as paths of FILES by name, into REFINED, REJECT and the funnel (CSV).

    A record with the same texts as an earlier one becomes a reject. Of candidates of one form whose targets differ at
    most in case, punctuation and blanks, only the first is kept. Raises UserError if there are no records, or if more
    than `max_reject_share` of them are rejects, which are then written to `kept_rejects`.
    """

    def table(name: str, columns: list[str] | None = None) -> pl.DataFrame:
        parts = [records.read(shard[name], FILES[name], columns) for shard in shards]
        return pl.concat([part.with_columns(shard=pl.lit(index, pl.Int64)) for index, part in enumerate(parts)])

    def numbered(rows: pl.DataFrame) -> pl.DataFrame:
        """Add `number`, the line counted from the beginning of the source."""
        joined = rows.join(pieces, on=["shard", "source"], maintain_order="left")
        return joined.with_columns(number=pl.col("line") + pl.col("begin"))

    pieces = table("lines").with_columns(begin=pl.col("lines").cum_sum().over("source") - pl.col("lines"))
    seen = numbered(table("seen"))
    is_first = pl.col("fingerprint").is_first_distinct()
    firsts = seen.filter(is_first).select("fingerprint", first=pl.format("{}:{}", "source", "number"))
    copies = seen.filter(~is_first).join(firsts, on="fingerprint")
    duplicates = copies.with_columns(field=pl.lit("record"), reason=pl.format("duplicate of {}", "first"))
    columns = ["source", pl.col("number").alias("line"), "field", "reason"]
    bad = pl.concat([numbered(table("rejects")).select(columns), duplicates.select(columns)])
    bad = bad.sort(pl.col("source").cast(pl.Enum(pieces["source"].unique(maintain_order=True))), "line")
    counts = _summed([table("funnel").drop("shard")])
    total = dict(counts.rows()).get("raw records", 0)
    check_reject_share(total, bad, max_reject_share, kept_rejects, "data.alignx.sources")

    found = table("candidates", ["source", "line", "form", "target"])
    unique = found.join(copies, on=["shard", "source", "line"], how="anti", maintain_order="left")
    unique = unique.filter(pl.struct("form", "target").is_first_distinct())
    with records.Writer(refined, records.REFINED) as writer:
        for index, shard in enumerate(shards):
            own = unique.filter(pl.col("shard") == index)
            for batch in records.batches(shard["candidates"], records.CANDIDATE):
                writer.write(batch.join(own, on=["source", "line", "form"], how="semi").select(records.REFINED.names()))
    kept = [
        (f"{form}: no earlier example has the same target", (unique["form"] == form).sum())
        for form in found["form"].unique().sort()
    ]
    records.write(bad, rejects, records.REJECT)
    with records.replacing(funnel) as path:
        _with_losses(pl.concat([counts, pl.DataFrame(kept, records.FUNNEL, orient="row")])).write_csv(path)
    log.info("%d refined examples; %d raw records rejected", unique.height, bad.height)


def _candidates(refined: pl.DataFrame, source: str) -> pl.DataFrame:
    targets = [stable_hash(_plain(*texts)) for texts in refined.select("prompt", "chosen", "rejected").iter_rows()]
    return refined.with_columns(source=pl.lit(source), target=pl.Series(targets, dtype=pl.String))


def _plain(*texts: str) -> str:
    """Texts without case, punctuation and blanks: equal if a reader would call the targets the same."""
    return "\n".join(re.sub(r"[\W_]+", "", text.casefold()) or text for text in texts)


def _summed(funnels: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(funnels).group_by("step", maintain_order=True).agg(pl.col("rows").sum())


def _with_losses(funnel: pl.DataFrame) -> pl.DataFrame:
    """Add `lost`: how many rows each rule removed of those that the previous rule of the same form left."""
    form = pl.col("step").str.extract("^(pairs|ugc): ")
    ordered = funnel.with_columns(form=form).sort("form", nulls_last=False, maintain_order=True)
    whole = ordered.filter(pl.col("form").is_null())["rows"].last()
    first = pl.when(pl.col("form").is_null()).then("rows").otherwise(whole)
    before = pl.col("rows").shift().over("form").fill_null(first)
    return ordered.with_columns(lost=before - pl.col("rows")).drop("form")
