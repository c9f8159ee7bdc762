"""Steps of curation against datatrove's own and pubmed_parser, in turns on the same documents.

Usage: python benchmarks/curation_steps.py CORPUS [--jats FOLDER] [--documents N]
    CORPUS  a folder that `meditron curate` wrote
    FOLDER  JATS articles (.nxml, .xml), for the comparison with pubmed_parser, where that is installed

datatrove cuts text into words with spaCy unless told otherwise. Here it takes `str.split`, the quickest there
is, so that the ratios say nothing about spaCy and are the smallest that a user would see. Its hash gets
bytes, since the xxhash of today refuses texts.
"""

import argparse
import importlib.util
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import xxhash
from datatrove.data import Document
from datatrove.pipeline.decont import n_grams as theirs_decont
from datatrove.pipeline.dedup import minhash as theirs_minhash
from datatrove.pipeline.filters import (
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)

from data_curation.decontaminate.benchmarks import Item
from data_curation.decontaminate.match import LONG, build_index, judge
from data_curation.dedup.near import near_duplicates, shingles, signature
from data_curation.filters.quality import Quality
from data_curation.readers import RawDocument, read_source

ROUNDS = 3
SIMILARITY = 0.8


class Split:
    """datatrove's word tokenizer, as quick as it can be."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def hash_function(config: object) -> Callable[[str], int]:
    return lambda text: xxhash.xxh64_intdigest(text.encode())


def main() -> None:
    for module in (theirs_minhash, theirs_decont):
        module.create_hash_func = hash_function
        module.load_word_tokenizer = lambda language: Split()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--jats")
    parser.add_argument("--documents", type=int, default=600)
    arguments = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in ("datatrove", "numpy", "lxml", "xxhash")))
    texts = load(Path(arguments.corpus), arguments.documents)
    print(f"{len(texts):,} documents, {size(texts) / 1e6:.1f} MB\n")
    filters(texts)
    decontamination(texts)
    near(texts)
    if arguments.jats:
        jats(Path(arguments.jats))


def load(corpus: Path, count: int) -> list[str]:
    """A random choice of documents, every source by its share."""
    texts = [
        text
        for file in sorted(corpus.glob("train/*.parquet"))
        for text in pq.read_table(file, columns=["text"])["text"].to_pylist()
    ]
    return random.Random(0).sample(texts, min(count, len(texts)))


def size(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def compare(title: str, megabytes: float, ways: dict[str, Callable[[], object]]) -> dict[str, object]:
    """Run each way in turns, print medians and the ratio of the same round; the last results."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, object] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            results[name] = way()
            times[name].append(time.process_time() - start)
    first, second = times.values()
    ratios = sorted(b / a for a, b in zip(first, second, strict=True))
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"| {title} | {name} | {median:.2f} s | {megabytes / median:.2f} MB/s |")
    print(f"  ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)
    return results


def filters(texts: Sequence[str]) -> None:
    """Rules of Gopher and FineWeb, published bounds, without C4's, which datatrove applies to lines."""
    ours = Quality.of("general", {"max_braces": inf, "max_placeholder": inf})
    documents = [Document(text=text, id=str(n)) for n, text in enumerate(texts)]
    modules = (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter)
    theirs = [
        gopher_quality_filter.GopherQualityFilter(),
        gopher_repetition_filter.GopherRepetitionFilter(),
        fineweb_quality_filter.FineWebQualityFilter(),
    ]

    def run_theirs() -> set[str]:
        kept = [d.id for d in documents if all(rule.filter(d) is True for rule in theirs)]
        return set(kept)

    def run_ours() -> set[str]:
        return {document.id for document in documents if ours(document) is True}

    def split(text: str, language: str = "") -> list[str]:
        return text.split()

    with (
        patch.object(modules[0], "split_into_words", split),
        patch.object(modules[1], "split_into_words", split),
        patch.object(modules[2], "split_into_words", split),
    ):
        results = compare("filters", size(texts) / 1e6, {"ours": run_ours, "datatrove": run_theirs})
    ours_kept, theirs_kept = results["ours"], results["datatrove"]
    assert isinstance(ours_kept, set)
    assert isinstance(theirs_kept, set)
    differ = ours_kept ^ theirs_kept
    print(f"  kept {len(ours_kept):,} and {len(theirs_kept):,} of {len(texts):,}, {len(differ)} differ\n")


def decontamination(texts: Sequence[str]) -> None:
    """Questions planted in every twentieth document: both must find them all."""
    choose = random.Random(1)
    words = [f"{a}{b}" for a in ("gly", "neuro", "hepa", "cardi", "ren") for b in map(str, range(400))]
    questions = [" ".join(choose.choices(words, k=40)) for _ in range(1000)]
    planted = {n: questions[n % len(questions)] for n in range(0, len(texts), 20)}
    documents = [f"{text} {planted.get(n, '')}" for n, text in enumerate(texts)]
    index = build_index([Item(benchmark="b", name=str(n), text=text) for n, text in enumerate(questions)])
    config = theirs_decont.NGramsDecontConfig(n_grams=LONG)
    step = theirs_decont.NGramsDecontFilter(tempfile.gettempdir(), config)
    tokens = [theirs_decont.simplify_text(text, config.norm_config).split() for text in questions]
    step._index_hashes = {
        step.hash_func(" ".join(run)): "b"
        for question in tokens
        for run in theirs_decont.ngrams(question, LONG)
    }

    def run_ours() -> set[int]:
        return {n for n, text in enumerate(documents) if judge(index.find(text), index, set())}

    def run_theirs() -> set[int]:
        return {
            n for n, text in enumerate(documents) if step.filter(Document(text=text, id=str(n))) is not True
        }

    ways: dict[str, Callable[[], object]] = {"ours (13 and 8 words)": run_ours, "datatrove (13)": run_theirs}
    results = compare("decontamination", size(documents) / 1e6, ways)
    for name, found in results.items():
        assert isinstance(found, set)
        others = len(found - set(planted))
        print(f"  {name}: {len(found & set(planted))} of {len(planted)} planted, {others} others")
    print()


def near(texts: Sequence[str]) -> None:
    """Documents with copies of which some words were changed, from Jaccard 0.5 to 1."""
    choose = random.Random(2)
    originals = [text for text in texts if len(text.split()) >= 150]
    copies = [changed(text, choose) for text in originals]
    documents = [*texts, *copies]
    true = np.array([jaccard(a, b) for a, b in zip(originals, copies, strict=True)])

    def run_ours() -> object:
        signatures = np.stack([signature(text) for text in documents])
        return near_duplicates(signatures, np.arange(len(documents)), SIMILARITY)[0]

    results = compare(
        "near-duplicates",
        size(documents) / 1e6,
        {"ours": run_ours, "datatrove": lambda: four_stages(documents)},
    )
    kept = results["ours"]
    assert isinstance(kept, np.ndarray)
    ours_dropped = kept != np.arange(len(documents))
    theirs_dropped = results["datatrove"]
    for name, dropped in (("ours", ours_dropped), ("datatrove", theirs_dropped)):
        gone = np.asarray(dropped)
        score(name, gone[len(texts) :], gone[[texts.index(text) for text in originals]], true)
    right = [jaccard(documents[n], documents[kept[n]]) >= SIMILARITY for n in np.flatnonzero(ours_dropped)]
    share = np.mean(right)
    print(f"  ours, all {len(right)} dropped: {share:.3f} are at {SIMILARITY} to the kept one\n")


def changed(text: str, choose: random.Random) -> str:
    words = text.split()
    for _ in range(int(len(words) * choose.choice([0.002, 0.005, 0.01, 0.015, 0.06, 0.1]))):
        words[choose.randrange(len(words))] = f"other{choose.randrange(10**6)}"
    return " ".join(words)


def jaccard(first: str, second: str) -> float:
    a, b = set(shingles(first).tolist()), set(shingles(second).tolist())
    return len(a & b) / max(len(a | b), 1)


def score(name: str, dropped: np.ndarray, originals_dropped: np.ndarray, true: np.ndarray) -> None:
    """A pair is found when one of the two went: the original may have been a copy of another text."""
    similar = true >= SIMILARITY
    recall = np.sum((dropped | originals_dropped) & similar) / max(np.sum(similar), 1)
    precision = np.sum(dropped & similar) / max(np.sum(dropped), 1)
    print(
        f"  {name}: of {np.sum(similar)} copies at {SIMILARITY} and more and {np.sum(~similar)} below, "
        f"recall {recall:.3f}, precision {precision:.3f}"
    )


def four_stages(texts: Sequence[str]) -> list[bool]:
    """Which documents datatrove drops with as many bands and rows."""
    config = theirs_minhash.MinhashConfig(n_grams=5, num_buckets=20, hashes_per_bucket=6)
    documents = [Document(text=text, id=str(n)) for n, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        theirs_minhash.MinhashDedupSignature(f"{folder}/signatures", config).run(documents)
        buckets = theirs_minhash.MinhashDedupBuckets(
            f"{folder}/signatures", f"{folder}/buckets", config=config
        )
        for bucket in range(config.num_buckets):
            buckets.run(None, bucket, config.num_buckets)
        theirs_minhash.MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config).run(
            None, 0, 1
        )
        kept = theirs_minhash.MinhashDedupFilter(f"{folder}/remove").run(iter(documents), 0, 1)
        names = {int(document.id) for document in kept}
    return [n not in names for n in range(len(texts))]


def jats(folder: Path) -> None:
    """Articles with their tables: ours as one text, pubmed_parser by its four functions."""
    if importlib.util.find_spec("pubmed_parser") is None:
        print("pubmed_parser is not installed: pip install pubmed_parser, and try again", file=sys.stderr)
        return
    import pubmed_parser

    files = sorted(file for file in folder.rglob("*") if file.suffix in (".nxml", ".xml"))

    def run_ours() -> str:
        records = [record for file in files for record in read_source(file, "jats", {})]
        texts = [record.text for record in records if isinstance(record, RawDocument)]
        tables = sum(text.count("\n| ---") for text in texts)
        rows = sum(f"\n{text}".count("\n| ") for text in texts) - 2 * tables  # without heads and their lines
        return f"{tables} tables, {rows} rows under their heads"

    def run_theirs() -> str:
        tables: list[dict[str, Any]] = []
        for path in map(str, files):
            pubmed_parser.parse_pubmed_xml(path)
            pubmed_parser.parse_pubmed_paragraph(path, all_paragraph=True)
            pubmed_parser.parse_pubmed_caption(path)
            tables += pubmed_parser.parse_pubmed_table(path) or []
        rows = sum(any(map(str.strip, row)) for table in tables for row in table["table_values"])
        return f"{len(tables)} tables, {rows} rows under their heads"

    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"{len(files)} JATS articles, {megabytes:.1f} MB")
    results = compare("JATS", megabytes, {"ours": run_ours, "pubmed_parser": run_theirs})
    for name, kept in results.items():
        print(f"  {name}: {kept}")


if __name__ == "__main__":
    main()
