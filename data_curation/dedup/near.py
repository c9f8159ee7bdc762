"""Near-duplicates: MinHash signatures (Broder, 1997) and locality-sensitive hashing over all sources.

Here is the method, for what fits in memory; `dedup/stages.py` does the same in tasks over files.
"""

from collections.abc import Iterable
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
CLOSE = np.dtype([("first", np.int64), ("second", np.int64), ("similarity", np.float32)])
"""Two similar documents: positions, and the estimate."""


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
    signatures: Signatures, members: npt.NDArray[np.int64], similarity: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each document the one to keep in its place, and their estimated similarity, both [documents].

    Args:
        signatures: [documents, PERMUTATIONS].
        members: [n], ascending positions of the documents to look at, the preferred first.
        similarity: Jaccard similarity of the word 5-grams from which two documents are the same.
    """
    own = signatures[members]
    found = [candidate_pairs(band_keys(own, band), members) for band in range(BANDS)]
    pairs = distinct(np.concatenate(found))
    estimates = estimated(signatures[pairs[:, 0]], signatures[pairs[:, 1]])
    return keep_first(len(signatures), [close_pairs(pairs, estimates, similarity)])


def band_keys(signatures: Signatures, band: int) -> npt.NDArray[np.uint64]:
    """One hash of a band's rows for each signature: equal where the band is equal."""
    rows = np.asarray(signatures[:, band * ROWS : (band + 1) * ROWS], dtype=np.uint64)
    total = np.zeros(len(rows), dtype=np.uint64)
    for row in range(ROWS):
        total = mixed(total * np.uint64(0x9E3779B97F4A7C15) + rows[:, row])
    return total


def candidate_pairs(keys: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pairs of documents with equal keys, [pairs, 2], the preferred first; see `distinct` for the order.

    Of a run of equal ones, each is paired with the first and with the one before it, so that there are
    no more than two pairs a document.

    Args:
        keys: [n], a band's key of each document.
        positions: [n], ascending.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same_as_before = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    starts = np.arange(len(ordered))
    starts[same_as_before] = 0
    starts = np.maximum.accumulate(starts)  # where the run of equal keys begins
    second = positions[order[same_as_before]]
    first, before = positions[order[starts[same_as_before]]], positions[order[same_as_before - 1]]
    return distinct(np.stack([np.append(first, before), np.append(second, second)], axis=1))


def distinct(pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each pair once, ordered by its second member, then by its first."""
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    new = np.ones(len(pairs), dtype=np.bool_)
    new[1:] = np.any(pairs[1:] != pairs[:-1], axis=1)
    return pairs[new]


def estimated(first: Signatures, second: Signatures) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarities, [pairs]: the share of equal entries of the signatures."""
    shares: npt.NDArray[np.float64] = np.mean(first == second, axis=1)
    return shares


def close_pairs(
    pairs: npt.NDArray[np.int64], estimates: npt.NDArray[np.float64], similarity: float
) -> npt.NDArray[np.void]:
    """The pairs that are similar enough, as `CLOSE` records, in their order."""
    enough = estimates >= similarity - TOLERANCE
    close = np.empty(np.count_nonzero(enough), dtype=CLOSE)
    close["first"], close["second"] = pairs[enough].T
    close["similarity"] = estimates[enough]
    return close


def keep_first(
    documents: int, close: Iterable[npt.NDArray[np.void]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each document the one to keep in its place, and their estimated similarity, both [documents].

    A document goes only for a kept one that is itself similar to it, so chains of similar documents do
    not carry one away from what it resembles.

    Args:
        documents: how many there are.
        close: similar pairs in the order of their second members.
    """
    kept = np.arange(documents)
    alike = np.ones(documents, dtype=np.float32)
    for records in close:
        for first, second, estimate in records.tolist():
            # Whether the first is kept is settled: all its pairs came before.
            if kept[first] == first and kept[second] == second:
                kept[second], alike[second] = first, estimate
    return kept, alike
