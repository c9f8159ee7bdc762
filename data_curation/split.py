"""Train or validation, by the hash of the document: the same whatever else is in the corpus."""

import numpy as np
import numpy.typing as npt

DROPPED, TRAIN, VALIDATION = 0, 1, 2
SPLITS = {TRAIN: "train", VALIDATION: "validation"}

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def split_positions(keys: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.float64]:
    """A place in [0, 1) for each document, from its key and the seed alone.

    Args:
        keys: [documents, 2], halves of the 128-bit key that equal documents share.
        seed: another seed gives another split.

    The mixing is the finaliser of splitmix64 (Steele, Lea and Flood, 2014).
    """
    x = keys[:, 0] ^ np.uint64((seed * _GOLDEN + _GOLDEN) & _MASK)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53


def assign_split(positions: npt.NDArray[np.float64], fraction: float) -> npt.NDArray[np.uint8]:
    """TRAIN or VALIDATION for each document of one source.

    Documents placed under `fraction` are held out. Of two documents or more, at least one goes to
    each side (the one placed nearest to it), unless `fraction` is 0.
    """
    sides = np.where(positions < fraction, VALIDATION, TRAIN).astype(np.uint8)
    if fraction > 0 and len(sides) > 1:
        if not np.any(sides == VALIDATION):
            sides[np.argmin(positions)] = VALIDATION
        elif not np.any(sides == TRAIN):
            sides[np.argmax(positions)] = TRAIN
    return sides
