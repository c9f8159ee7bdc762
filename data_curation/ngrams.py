"""Runs of words as hashes: what near-duplicates and benchmark questions are found by."""

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import xxhash

WORD = re.compile(r"\w+")
_REMEMBERED_WORDS = 2**20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
Hashes = npt.NDArray[np.uint64]


class _WordHashes(dict[str, int]):
    """Hash of each word, remembered: most words of a text were in the texts before it."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED_WORDS:
            self.clear()
        self[word] = xxhash.xxh3_64_intdigest(word.casefold().encode("utf-8", "surrogatepass"))
        return self[word]


_HASHES = _WordHashes()


@lru_cache(maxsize=1)
def word_hashes(text: str) -> Hashes:
    """Hash of each word, [words], without regard to case; punctuation is between words.

    The last result is remembered, since several steps ask for the same document.
    """
    words = WORD.findall(text)
    codes = np.fromiter(map(_HASHES.__getitem__, words), dtype=np.uint64, count=len(words))
    codes.flags.writeable = False
    return codes


def ngram_hashes(words: Hashes, width: int) -> Hashes:
    """Hash of each run of `width` words, [words - width + 1], or [0] of a shorter text."""
    count = max(len(words) - width + 1, 0)
    total = np.zeros(count, dtype=np.uint64)
    if count:
        for offset in range(width):  # a polynomial of the words' hashes, modulo 2^64
            total = total * _FACTOR + words[offset : count + offset]
    return mixed(total)


def mixed(x: Hashes) -> Hashes:
    """The finaliser of splitmix64: makes every bit depend on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
