"""Runs of words as hashes: what near-duplicates and benchmark questions are found by."""

import re
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

WORD = re.compile(r"\w+")
BLOCK_CHARACTERS = 2**16
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_FACTOR), -1, 2**64))
Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]


@lru_cache(maxsize=1)
def word_hashes(text: str) -> Hashes:
    """Hash of each match of `WORD`, [words], without regard to case.

    The last result is remembered, since several steps ask for the same document.
    """
    letters = _letters(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4"))
    inside = np.zeros(len(letters) + 2, dtype=np.bool_)
    np.not_equal(letters, 0, out=inside[1:-1])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[0::2], edges[1::2]
    hashes = np.empty(len(starts), dtype=np.uint64)
    done = 0
    while done < len(starts):  # whole words, of about a block together
        until = max(int(np.searchsorted(ends, starts[done] + BLOCK_CHARACTERS)), done + 1)
        first, last = starts[done], ends[until - 1]
        own = slice(done, until)
        hashes[own] = _hash_words(letters[first:last], starts[own] - first, ends[own] - first)
        done = until
    hashes.flags.writeable = False
    return hashes


def _hash_words(letters: Codes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Hashes:
    """A polynomial of each word's letters, modulo 2^64, from sums over all letters before a place."""
    powers, inverses = _powers(1 << max(len(letters), BLOCK_CHARACTERS).bit_length())
    sums = np.zeros(len(letters) + 1, dtype=np.uint64)
    np.cumsum(letters * powers[: len(letters)], out=sums[1:])
    return mixed((sums[ends] - sums[starts]) * inverses[starts])


@lru_cache(maxsize=1)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of `_FACTOR` from 1 on, and their inverses, each [count]."""
    powers, inverses = (np.full(count, number, dtype=np.uint64) for number in (_FACTOR, _INVERSE))
    powers[0] = inverses[0] = 1
    return np.cumprod(powers, dtype=np.uint64), np.cumprod(inverses, dtype=np.uint64)


def _letters(codes: Codes) -> Codes:
    """Each character without its case, and 0 where it is in no word."""
    letters = _basic_letters().take(codes, mode="clip")
    others = np.flatnonzero(codes >= len(_basic_letters()))  # of the other planes, so rare
    letters[others] = [_letter(chr(code)) for code in codes[others].tolist()]
    return letters


@cache
def _basic_letters() -> Codes:
    """`_letter` of each character of the basic plane, [65536]."""
    return np.array([_letter(chr(code)) for code in range(2**16)], dtype=np.uint32)


def _letter(character: str) -> int:
    """The character in lower case, as a number; 0 where `WORD` does not match it."""
    if not WORD.match(character):
        return 0
    folded = character.casefold()
    return ord(folded) if len(folded) == 1 else ord(character)


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
