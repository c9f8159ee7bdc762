"""Near-duplicates: MinHash signatures (Broder, 1997) and locality-sensitive hashing over all sources.

Signatures are made with the documents, in parallel; finding candidates needs one band of all documents
in memory at a time, and only candidates are held against each other.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from data_curation.ngrams import mixed, ngram_hashes, word_hashes

BANDS, ROWS = 20, 6
"""A pair of Jaccard similarity s becomes a candidate with probability 1 - (1 - s^6)^20: 0.998 at 0.8."""
PERMUTATIONS = BANDS * ROWS
SIGNATURE_BYTES = 4 * PERMUTATIONS
SHINGLE_WORDS = 5
TOLERANCE = 0.04
"""One standard error of the estimated similarity, which a candidate may lack: sqrt(0.8 * 0.2 / 120)."""
_SEED = 20240
_BLOCK = 1024
Signatures = npt.NDArray[np.uint32]


def shingles(text: str) -> npt.NDArray[np.uint32]:
    """Hashes of the runs of five words, case and punctuation aside; of a shorter text, of all its words."""
    words = word_hashes(text)
    hashes = ngram_hashes(words, max(min(SHINGLE_WORDS, len(words)), 1))
    return (hashes >> np.uint64(32)).astype(np.uint32)


def signature(text: str) -> Signatures:
    """MinHash signature, [PERMUTATIONS]; of a text without a word the largest values."""
    smallest = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, dtype=np.uint32)
    factors, addends = _permutations()
    hashes = shingles(text)
    for start in range(0, len(hashes), _BLOCK):  # a block of products stays in the cache
        products = np.multiply.outer(factors, hashes[start : start + _BLOCK])
        products += addends[:, None]
        np.minimum(smallest, products.min(axis=1), out=smallest)
    return smallest


@cache
def _permutations() -> tuple[Signatures, Signatures]:
    """Factors (odd) and addends of the permutations x -> a x + b modulo 2^32, each [PERMUTATIONS]."""
    numbers = np.random.default_rng(_SEED).integers(0, 2**32, (2, PERMUTATIONS), dtype=np.uint32)
    return numbers[0] | np.uint32(1), numbers[1]


def near_duplicates(
    signatures: Signatures, candidates: npt.NDArray[np.int64], similarity: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each document the one to keep in its place.

    A document goes only for a kept one that is itself similar to it, so chains of similar documents do
    not carry one away from what it resembles.

    Args:
        signatures: [documents, PERMUTATIONS], may be a memory map.
        candidates: [n], ascending positions of the documents to look at, the preferred first.
        similarity: Jaccard similarity of the word 5-grams from which two documents are the same.

    Returns:
        [documents] position of the kept document (itself where kept), and [documents] the estimated
        similarity to it.
    """
    kept = np.arange(len(signatures))
    alike = np.ones(len(signatures))
    pairs = _candidate_pairs(signatures, candidates)
    estimates = _estimates(signatures, pairs)
    close = estimates >= similarity - TOLERANCE
    for (first, second), estimate in zip(pairs[close].tolist(), estimates[close].tolist(), strict=True):
        # Pairs come in the order of their second member: whether the first is kept is settled.
        if kept[first] == first and kept[second] == second:
            kept[second], alike[second] = first, estimate
    return kept, alike


def _candidate_pairs(signatures: Signatures, members: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pairs that share a band, [pairs, 2], the preferred first; ordered by second, then first."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(BANDS):
        keys = _band_keys(signatures, members, band)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        same_as_before = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        starts = np.arange(len(ordered))
        starts[same_as_before] = 0
        starts = np.maximum.accumulate(starts)  # where the run of equal keys begins
        for earlier in (starts[same_as_before], same_as_before - 1):
            found.append(np.stack([members[order[earlier]], members[order[same_as_before]]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]


def _band_keys(signatures: Signatures, members: npt.NDArray[np.int64], band: int) -> npt.NDArray[np.uint64]:
    """One hash of a band's rows for each member."""
    rows = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])[members].astype(np.uint64)
    total = np.zeros(len(members), dtype=np.uint64)
    for row in range(ROWS):
        total = mixed(total * np.uint64(0x9E3779B97F4A7C15) + rows[:, row])
    return total


def _estimates(signatures: Signatures, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity of each pair: the share of equal entries of their signatures."""
    blocks = list(_blocks(pairs))
    return np.concatenate(
        [np.mean(signatures[block[:, 0]] == signatures[block[:, 1]], axis=1) for block in blocks]
        or [np.empty(0)]
    )


def _blocks(pairs: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(pairs), 65_536):
        yield pairs[start : start + 65_536]
