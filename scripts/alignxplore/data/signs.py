"""Preference directions as bits, so that rules on 90 dimensions are a few operations on whole columns."""

import numpy as np
import polars as pl

from alignxplore.records import N_DIMENSIONS

WORDS = ("up0", "up1", "down0", "down1")
"""A direction as bits: dimensions 0 to 63 and 64 to 89 that are preferred, and those that are not."""


def sign_words(signs: np.ndarray) -> dict[str, np.ndarray]:
    """Directions (rows, 90) as WORDS."""
    words = []
    for sign in (1, -1):
        packed = np.zeros((len(signs), 16), np.uint8)
        packed[:, :12] = np.packbits(signs == sign, axis=1, bitorder="little")
        words += [*packed.view("<u8").T]
    return {name: np.ascontiguousarray(word).view(np.int64) for name, word in zip(WORDS, words, strict=True)}


def word_signs(words: pl.DataFrame) -> np.ndarray:
    """Directions (rows, 90) of a table with WORDS."""

    def unpacked(*names: str) -> np.ndarray:
        together = np.stack([words[name].to_numpy() for name in names], axis=1).astype("<i8")
        bits = np.unpackbits(together.view(np.uint8).reshape(-1, 16), axis=1, bitorder="little")
        return bits[:, :N_DIMENSIONS].astype(np.int8)

    return unpacked("up0", "up1") - unpacked("down0", "down1")
