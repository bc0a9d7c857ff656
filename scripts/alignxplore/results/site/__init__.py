"""The report: a site of static pages that opens from disk, with its data beside it."""
