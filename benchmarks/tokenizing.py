"""`meditron tokenize` against two other ways to Megatron's files, in turns, files compared.

Usage: python benchmarks/tokenizing.py TOKENIZER [TEXT ...]
    TOKENIZER  folder with tokenizer.json, as `meditron import` writes it
    TEXT       plain text, XML or HTML files, or folders of them; without any, text is generated

The others are `datasets.map(num_proc=2)` with Megatron's builder, and what Megatron-LM's
`tools/preprocess_data.py` does: the workers of a pool pipe lists of ids to the one process that writes.
Where gigatoken is installed (`pip install gigatoken`), encoding alone is also compared, on one thread.
"""

import contextlib
import filecmp
import importlib.util
import io
import json
import multiprocessing
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROUNDS = 3
WORKERS = 2
MARKUP = re.compile(r"<[^>]*>|(?<=\s)[ \t]+")
DOCUMENT_CHARACTERS = 20_000
CORPUS_CHARACTERS = 40_000_000
WORDS = [
    "patients",
    "HbA1c",
    ">7.5%",
    "received",
    "metformin",
    "500",
    "mg",
    "placebo;",
    "CI",
    "0.71",
    "to",
    "0.94,",
]


def documents(sources: list[str]) -> Iterator[str]:
    """Pieces of the files' text without markup, of the size of a short article."""
    files = [
        file
        for source in map(Path, sources)
        for file in ([source] if source.is_file() else sorted(source.rglob("*")))
    ]
    for file in files:
        if file.is_file():
            text = MARKUP.sub("", file.read_text(encoding="utf-8", errors="replace"))
            for start in range(0, len(text), DOCUMENT_CHARACTERS):
                yield text[start : start + DOCUMENT_CHARACTERS]


def generated() -> Iterator[str]:
    chooser = random.Random(0)
    while True:
        yield " ".join(chooser.choices(WORDS, k=3000))


def make_corpus(folder: Path, sources: list[str]) -> int:
    """A corpus as `meditron curate` leaves it; returns its size in characters."""
    from meditron.files import atomic_write_json
    from meditron.manifest import write_manifest

    texts: list[str] = []
    size = 0
    for text in documents(sources) if sources else generated():
        texts.append(text)
        size += len(text)
        if size >= CORPUS_CHARACTERS:
            break
    (folder / "train").mkdir(parents=True)
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    pq.write_table(table, folder / "train" / "text-00000.parquet", row_group_size=max(len(texts) // 8, 1))
    with open(folder.with_suffix(".jsonl"), "w", encoding="utf-8") as handle:  # what Megatron-LM's tool reads
        handle.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    atomic_write_json(folder / "stats.json", {"sources": {"text": {"kind": "medical"}}})
    write_manifest(folder, kind="corpus", config={}, inputs={}, counts={})
    return size


def ours(corpus: Path, tokenizer: str, output: Path) -> Path:
    from data_curation.tokenize import main as tokenize
    from meditron.config import Recipe, resolve

    recipe = resolve(Recipe(work_dir=str(output)))
    recipe.tokenize.corpus, recipe.tokenize.tokenizer = str(corpus), tokenizer
    recipe.tokenize.workers = WORKERS
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        tokenize(recipe)
    return output / "shards" / "train" / "text"


def library_tokenizer(folder: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    library = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    library.backend_tokenizer.encode_special_tokens = True
    return library


def baseline(corpus: Path, tokenizer: str, output: Path) -> Path:
    """Batched `map` on two processes, then one `add_document` a text."""
    import datasets
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    from meditron.tokenizers import load_tokenizer

    known = load_tokenizer(tokenizer)
    library = library_tokenizer(tokenizer)
    files = [str(file) for file in (corpus / "train").glob("*.parquet")]
    data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(output / "cache"))
    encoded = data.map(
        lambda batch: {"ids": library(batch["text"], add_special_tokens=False)["input_ids"]},
        batched=True,
        batch_size=100,
        num_proc=WORKERS,
        remove_columns=data.column_names,
    )
    builder = IndexedDatasetBuilder(str(output / "text.bin"), dtype=DType.optimal_dtype(known.vocab_size))
    for row in encoded:
        ids = [*row["ids"], known.eos_id]
        builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(str(output / "text.idx"))
    return output / "text"


class Encoder:
    """A worker of Megatron-LM's tool: a line of JSON in, a list of ids out."""

    tokenizer: Any
    eod: int

    @classmethod
    def start(cls, tokenizer: str) -> None:
        from meditron.tokenizers import load_tokenizer

        cls.tokenizer, cls.eod = library_tokenizer(tokenizer), load_tokenizer(tokenizer).eos_id or 0

    @classmethod
    def encode(cls, line: str) -> tuple[list[int], int]:
        ids = cls.tokenizer(json.loads(line)["text"], add_special_tokens=False).input_ids
        ids.append(cls.eod)
        return ids, len(line)


def preprocess_data(corpus: Path, tokenizer: str, output: Path) -> Path:
    """The loop of Megatron-LM's `tools/preprocess_data.py`."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    from meditron.tokenizers import load_tokenizer

    dtype = DType.optimal_dtype(load_tokenizer(tokenizer).vocab_size)
    builder = IndexedDatasetBuilder(str(output / "text.bin"), dtype=dtype)
    with (
        open(corpus.with_suffix(".jsonl"), encoding="utf-8") as lines,
        multiprocessing.Pool(WORKERS, initializer=Encoder.start, initargs=(tokenizer,)) as pool,
    ):
        for ids, _ in pool.imap(Encoder.encode, lines, 32):
            builder.add_document(ids, [len(ids)])
    builder.finalize(str(output / "text.idx"))
    return output / "text"


def encoders(corpus: Path, tokenizer: str) -> None:
    """Encoding alone: the table of words, the library, and gigatoken, on one thread each."""
    import gigatoken
    import tokenizers

    from meditron.tokenizers import load_tokenizer

    texts = pq.read_table(corpus / "train" / "text-00000.parquet")["text"].to_pylist()
    library = tokenizers.Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    try:
        other = gigatoken.Tokenizer(f"{tokenizer}/tokenizer.json")
    except RuntimeError as error:  # SmolLM2's, for one, lacks single bytes that gigatoken expects
        print("encoding alone is not compared: gigatoken", str(error).splitlines()[0])
        return
    ways = {
        "meditron": lambda: load_tokenizer(tokenizer).encode_batch(texts),
        "tokenizers": lambda: [e.ids for e in library.encode_batch_fast(texts, add_special_tokens=False)],
        "gigatoken": lambda: other.encode_batch_list(texts, parallel=False),
    }
    results = {}
    for name, way in ways.items():
        started = time.perf_counter()
        results[name] = way()
        print(f"encoding alone, {name:<10} {time.perf_counter() - started:6.2f} s")
    pairs = list(zip(results["tokenizers"], results["gigatoken"], strict=True))
    print(f"gigatoken: {sum(list(a) == list(b) for a, b in pairs):,} of {len(pairs):,} documents alike")


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # both use processes, not threads
    import datasets
    import transformers  # noqa: F401 - imported before the clock starts, as is everything the baseline needs

    datasets.disable_progress_bars()
    tokenizer, sources = sys.argv[1], sys.argv[2:]
    ways = {
        "meditron tokenize": ours,
        "datasets.map + IndexedDatasetBuilder": baseline,
        "Megatron-LM's preprocess_data": preprocess_data,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        size = make_corpus(root / "corpus", sources)
        for turn in range(ROUNDS):
            made = []
            for index, (way, function) in enumerate(ways.items()):
                output = root / f"{turn}-{index}"
                output.mkdir()
                started = time.perf_counter()
                made.append(function(root / "corpus", tokenizer, output))
                times[way].append(time.perf_counter() - started)
            for ending in (".bin", ".idx"):
                first, *others = (f"{prefix}{ending}" for prefix in made)
                for other in others:
                    assert filecmp.cmp(first, other, shallow=False), "the ways wrote different files"
        tokens = json.loads((root / "0-0" / "shards" / "tokens.json").read_text())["sources"]["text"][
            "train_tokens"
        ]
        if importlib.util.find_spec("gigatoken") is not None:
            encoders(root / "corpus", tokenizer)
    packages = ("tokenizers", "datasets", "megatron-core", "pyarrow", "numpy")
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        + ", ".join(f"{p} {version(p)}" for p in packages)
    )
    print(f"{size:,} characters ({'real' if sources else 'generated'}), {tokens:,} tokens; files identical")
    for way, values in times.items():
        middle = statistics.median(values)
        print(
            f"{way:<38} {middle:5.1f} s (min {min(values):.1f}, max {max(values):.1f})  "
            f"{tokens / middle:,.0f} tokens/s"
        )
    own, *_ = times.values()
    for way, values in list(times.items())[1:]:
        ratios = [b / a for a, b in zip(own, values, strict=True)]
        median = statistics.median(ratios)
        print(f"against {way}: ratio {median:.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})")


if __name__ == "__main__":
    main()
