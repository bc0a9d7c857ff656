"""Rejects: a few bad records cost themselves, too many stop the run."""

import polars as pl

from alignxplore import records
from alignxplore.errors import UserError


def check_reject_share(total: int, rejects: pl.DataFrame, max_share: float, kept: str, key: str) -> None:
    """Raise UserError if more than `max_share` of `total` records are in `rejects` (REJECT), or if there are none.

    `key` is the configuration key that names the files. The rejects are then written to `kept`.
    """
    if total == 0:
        raise UserError(f"{key}: the files hold no records")
    if rejects.height > max_share * total:
        records.write(rejects, kept, records.REJECT)
        first = rejects.row(0, named=True)
        raise UserError(
            f"{key}: {rejects.height} of {total} raw records were rejected, more than"
            f" data.max_reject_share = {max_share} allows; the first is"
            f" {first['source']}:{first['line']}: {first['field']}: {first['reason']}; all are in {kept}"
        )
