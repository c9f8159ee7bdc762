"""The text that the JATS reader makes of CRAFT's 97 articles, against the text that CRAFT released.

Usage: python benchmarks/craft.py CRAFT
    CRAFT  folder with `nxml/` (articles) and `txt/` (the same ones; both begin with the title)

Words are compared in their order: those in the matching blocks of `difflib` count as found. Numbers and
comparators are also counted without order, since they are what a reader must not lose. Prints means over the
articles, and the articles that differ most.
"""

import re
import statistics
import sys
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

from data_curation.clean import normalise
from data_curation.readers import read_source
from data_curation.readers.base import RawDocument

WORDS, NUMBERS = re.compile(r"[^\W_]+"), re.compile(r"[<>≤≥±]|\d+(?:\.\d+)?")
OMITTED = re.compile(r"^(Acknowledge?ments?|Supplementary Material)$", re.MULTILINE | re.IGNORECASE)


class Row(NamedTuple):
    """One article."""

    recall: float
    """Words of the reference that ours has, in order."""
    precision: float
    """Words of ours that the reference has, in order."""
    body_recall: float
    """As `recall`, without the reference's thanks and supplementary files, which we leave out on purpose."""
    numbers: float
    """Numbers and comparators of that body that ours has."""
    name: str


def folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def in_order(ours: list[str], reference: list[str]) -> int:
    matcher = SequenceMatcher(None, ours, reference, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks())


def in_title(title: str) -> str:
    return "".join(WORDS.findall(folded(title).lower()))


def compare(document: RawDocument, name: str, reference_text: str) -> Row:
    text, reference = folded(normalise(document.text)), folded(reference_text)
    body = OMITTED.split(reference)[0]
    ours, theirs, kept = (WORDS.findall(part) for part in (text, reference, body))
    found = in_order(ours, theirs)
    numbers, own_numbers = Counter(NUMBERS.findall(body)), Counter(NUMBERS.findall(text))
    return Row(
        recall=found / len(theirs),
        precision=found / len(ours),
        body_recall=in_order(ours, kept) / len(kept),
        numbers=(numbers & own_numbers).total() / max(numbers.total(), 1),
        name=name,
    )


def main() -> None:
    root = Path(sys.argv[1])
    texts = [file.read_text(encoding="utf-8") for file in (root / "txt").glob("*.txt")]
    references = {in_title(text.split("\n", 1)[0]): text for text in texts}
    rows = []
    for article in sorted((root / "nxml").glob("*.nxml")):
        (document,) = read_source(article, "jats", {})
        reference = references.get(in_title(document.title or ""))
        if reference is None:
            print("no reference of this title:", article.name, document.title)
        else:
            rows.append(compare(document, article.name, reference))
    print(f"{len(rows)} articles\n\n| | mean | median | least |\n|---|---|---|---|")
    for field in Row._fields[:-1]:
        values = [getattr(row, field) for row in rows]
        middle, mean = statistics.median(values), statistics.mean(values)
        print(f"| {field} | {mean:.4f} | {middle:.4f} | {min(values):.4f} |")
    for row in sorted(rows, key=lambda row: row.body_recall)[:5]:
        print(f"{row.body_recall:.4f}  {row.numbers:.4f}  {row.name}")


if __name__ == "__main__":
    main()
