"""Does the memory of `meditron curate` stay flat as the corpus grows, and what does it do a second?

Usage: python benchmarks/curation_scale.py CORPUS [MB ...]
    CORPUS  a folder that `meditron curate` wrote; its documents are repeated, each time with other numbers
    MB      sizes of the input to make. Default: 20 60 200; for the run at scale: 1000
"""

import itertools
import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from curation import curate_and_watch

NUMBER = re.compile(r"\d+")
SHARDS = 16


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sizes = [int(word) for word in sys.argv[2:]] or [20, 60, 200]
    texts = [
        text
        for file in sorted(Path(sys.argv[1]).glob("train/*.parquet"))
        for text in pq.read_table(file, columns=["text"])["text"].to_pylist()
    ]
    random.Random(0).shuffle(texts)
    print(f"{os.cpu_count()} cores, 2 workers, near-duplicates on\n")
    print("| input | documents | kept | seconds | MB/s | peak memory |\n|---|---|---|---|---|---|")
    for megabytes in sizes:
        measure(texts, megabytes)


def measure(texts: list[str], megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        size = write(texts, megabytes * 10**6, Path(folder))
        sources = {"texts": {"path": "input", "reader": "jsonl"}}
        settings = {"sources": sources, "workers": 2, "chunk_megabytes": 8, "max_bad_fraction": 0.0}
        seconds, peak, corpus = curate_and_watch(settings, folder, Path(folder))
        (row,) = json.loads((corpus / "stats.json").read_text())["sources"].values()
    print(
        f"| {size / 1e6:.0f} MB | {row['read']:,} | {row['kept']:,} | {seconds:.0f} "
        f"| {size / 1e6 / seconds:.2f} | {peak / 2**20:.0f} MiB |",
        flush=True,
    )


def write(texts: list[str], size: int, folder: Path) -> int:
    """JSON lines of about `size` bytes in all."""
    (folder / "input").mkdir()
    written = 0
    documents = changed(texts)
    for shard in range(SHARDS):
        with open(folder / "input" / f"{shard:02d}.jsonl", "w", encoding="utf-8") as handle:
            for number, text in documents:
                written += handle.write(json.dumps({"id": str(number), "text": text}) + "\n")
                if written >= size * (shard + 1) / SHARDS:
                    break
    return written


def changed(texts: list[str]) -> Iterator[tuple[int, str]]:
    """Documents without end; from the second time on with other numbers and one word in four replaced."""
    choose = random.Random(0)
    for number in itertools.count():
        text = texts[number % len(texts)]
        if number >= len(texts):
            text = NUMBER.sub(lambda match: str(choose.randrange(10 ** len(match[0]))), text)
            words = text.split(" ")
            for place in choose.sample(range(len(words)), len(words) // 4):
                words[place] = f"term{choose.randrange(10**5)}"
            text = " ".join(words)
        yield number, text


if __name__ == "__main__":
    main()
