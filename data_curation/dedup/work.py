"""The same work from several sources: one article as abstract and as full text, in two collections."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

IDENTIFIERS = ("doi", "pmid", "pmcid")
WORK_BYTES = 8 * (len(IDENTIFIERS) + 1)
_TITLE = len(IDENTIFIERS)
_MIN_TITLE_WORDS = 5
_DOI_PREFIX = re.compile(r"^(?:https?://(?:dx\.)?doi\.org/|doi:\s*)", re.IGNORECASE)


def work_key(title: str, metadata: Mapping[str, Any]) -> bytes:
    """Hashes of DOI, PMID, PMCID and title, 8 bytes each; zero for what is not known.

    A title counts for articles only (what has one of the identifiers) and from five words: textbook
    chapters are called "Introduction" by the hundred.
    """
    known = [_identifier(name, str(metadata.get(name) or "")) for name in IDENTIFIERS]
    words = re.findall(r"\w+", unicodedata.normalize("NFKD", title).casefold())
    titled = " ".join(words) if any(known) and len(words) >= _MIN_TITLE_WORDS else ""
    return b"".join(_hash(text) for text in (*known, titled))


def _identifier(name: str, value: str) -> str:
    value = value.strip()
    if name == "doi":
        value = _DOI_PREFIX.sub("", value)
    if name == "pmcid":
        value = value.upper().removeprefix("PMC").partition(".")[0]
    return f"{name}:{value.casefold()}" if value else ""


def _hash(text: str) -> bytes:
    return xxhash.xxh3_64_digest(text.encode("utf-8", "surrogatepass")) if text else bytes(8)


def same_works(
    keys: npt.NDArray[np.uint64],
    members: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    *,
    prefer_longest: bool,
) -> npt.NDArray[np.int64]:
    """For each document the one to keep in its place, [documents].

    Args:
        keys: [documents, 4], from `work_key`.
        members: [n], ascending positions of the documents to look at, the preferred first.
        lengths: [documents], characters of each text.
        prefer_longest: keep the longest text of a work (a paper before its abstract), not the first.
    """
    parent = np.arange(len(keys))
    shared = [np.empty(0, dtype=np.int64)]
    for column in range(keys.shape[1]):
        for group in _groups(keys[members, column]):
            shared.append(members[group])
            first, *others = members[group].tolist()
            for other in others:
                if column != _TITLE or _may_be_one(keys[first], keys[other]):
                    _unite(parent, first, other)
    kept = np.arange(len(keys))
    touched = np.unique(np.concatenate(shared))  # most documents share nothing
    roots = np.array([_root(parent, node) for node in touched.tolist()], dtype=np.int64)
    for group in _groups(roots + 1):
        works = touched[group]
        best = works[np.argmax(lengths[works])] if prefer_longest else works[0]
        kept[works] = best
    return kept


def _groups(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.int64]]:
    """Positions of equal values that are not zero, of two or more, each ascending."""
    if len(values) == 0:
        return
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    borders = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    starts, ends = np.append(0, borders), np.append(borders, len(values))
    several = (ends - starts > 1) & (ordered[starts] != 0)
    for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
        yield order[start:end]


def _may_be_one(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> bool:
    """Whether no identifier that both have differs: two letters may share a title."""
    both = (first[:_TITLE] != 0) & (second[:_TITLE] != 0)
    return not bool(np.any(first[:_TITLE][both] != second[:_TITLE][both]))


def _root(parent: npt.NDArray[np.int64], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = int(parent[node])
    return node


def _unite(parent: npt.NDArray[np.int64], first: int, second: int) -> None:
    one, other = _root(parent, first), _root(parent, second)
    parent[max(one, other)] = min(one, other)
