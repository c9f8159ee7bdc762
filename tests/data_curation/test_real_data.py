"""Extraction held against real files; skipped where `MEDITRON_TEST_DATA` does not name a folder of them."""

import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_curation.clean import normalise
from data_curation.readers import BadRecord, RawDocument, read_source

NUMBERS = re.compile(r"[<>≤≥±]\s?\d|\d+(?:\.\d+)?\s?%")
RESIDUE = re.compile(r"</?[a-z]+[ >]|&(?:lt|gt|amp|nbsp|#\d+);|\\begin\{document\}|[\ufdd0\ufdd1]")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text))


def statements(text: str) -> Counter[str]:
    """Comparators with the number they compare to, and percentages."""
    return Counter("".join(match.split()) for match in NUMBERS.findall(text))


def read_archive(path: Path, reader: str) -> list[RawDocument]:
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    records = list(read_source(path, reader, {}))
    assert not [record for record in records if isinstance(record, BadRecord)]
    return [record for record in records if isinstance(record, RawDocument)]


def craft_references(path: Path) -> Iterator[tuple[str, str]]:
    """Title and text of each article as the CRAFT corpus gives it."""
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".txt") and "/txt/" in member.name:
                content = archive.extractfile(member)
                assert content is not None
                text = content.read().decode("utf-8")
                yield " ".join(words(text.split("\n", 1)[0])).lower(), text


def test_craft_articles_say_what_their_reference_text_says(shared_data: Path) -> None:
    path = shared_data / "archives" / "craft_fulltext.tar.gz"
    documents = read_archive(path, "jats")
    references = dict(craft_references(path))
    recalls = []
    for document in documents:
        reference = references.get(" ".join(words(document.title)).lower())
        if reference is not None:
            found, wanted = Counter(words(normalise(document.text))), Counter(words(reference))
            recalls.append((found & wanted).total() / wanted.total())
    assert len(recalls) >= 80
    assert sum(recalls) / len(recalls) > 0.97
    assert min(recalls) > 0.90


def test_plos_articles_keep_every_comparator_and_percentage_and_no_markup(shared_data: Path) -> None:
    from lxml import etree

    path = shared_data / "archives" / "jats_plos.tar.gz"
    documents = {
        document.metadata["file"].split("/")[-1]: document for document in read_archive(path, "jats")
    }
    assert len(documents) == 90
    lost = total = 0
    with tarfile.open(path) as archive:
        for member in archive:
            document = documents.get(member.name.split("/")[-1])
            if document is None:
                continue
            content = archive.extractfile(member)
            assert content is not None
            root = etree.fromstring(content.read())
            source = " ".join("".join(p.itertext()) for p in root.xpath(".//body//p[not(ancestor::p)]"))
            text = normalise(document.text)
            wanted, found = statements(normalise(source)), statements(text)
            lost += (wanted - found).total()
            total += wanted.total()
            assert not RESIDUE.search(text), (member.name, RESIDUE.search(text))
    assert total > 2_000
    # What is left are formulae that read otherwise written out: "C^{1.5}%" holds no "1.5%".
    assert lost <= 0.002 * total


@pytest.mark.slow
def test_medquad_pairs_without_an_answer_have_no_text(shared_data: Path) -> None:
    documents = read_archive(shared_data / "archives" / "medquad.tar.gz", "medquad")
    answered = [document for document in documents if document.text]
    assert (len(answered), len(documents) - len(answered)) == (15_578, 31_034)
