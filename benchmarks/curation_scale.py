"""Does the memory of `meditron curate` stay flat as the corpus grows, and what does it do a second?

Usage: python benchmarks/curation_scale.py CORPUS INPUT [MB ...]
    CORPUS  a folder that `meditron curate` wrote; its documents are repeated, each time with other numbers
            and one word in four replaced; one in twenty is a copy of the one before it with a word added
    INPUT   folder of the input that is made from it, in files of 20 MB; those that are there are kept
    MB      sizes to curate, each the first files of the input. Default: 20 60 200; at scale: 100 300 1000

Of the last size, the cost of each step is printed too.
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
from typing import Any

import pyarrow.parquet as pq
from curation import curate_and_watch

NUMBER = re.compile(r"\d+")
FILE_MEGABYTES = 20
COPY_EVERY = 20


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    corpus, folder = map(Path, sys.argv[1:3])
    sizes = [int(word) for word in sys.argv[3:]] or [20, 60, 200]
    write(corpus, folder, max(sizes) // FILE_MEGABYTES)
    print(f"{os.cpu_count()} cores, 2 workers, near-duplicates on\n")
    print("| input | documents | copies made | near-duplicates dropped | seconds | MB/s | peak memory |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for megabytes in sizes:
        steps = measure(folder, megabytes)
    print("\n| stage | step | seconds of a core | MB of input a second of a core |\n|---|---|---|---|")
    for step in steps:
        rate = step["megabytes_per_second"]
        print(f"| {step['stage']} | {step['step']} | {step['seconds']:.1f} | {rate if rate else '-'} |")


def measure(inputs: Path, megabytes: int) -> list[dict[str, Any]]:
    files = [f"{number:03d}.jsonl" for number in range(megabytes // FILE_MEGABYTES)]
    size = sum((inputs / name).stat().st_size for name in files)
    sources = {"texts": {"path": files, "reader": "jsonl"}}
    settings = {"sources": sources, "workers": 2, "chunk_megabytes": 8, "max_bad_fraction": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        seconds, peak, corpus = curate_and_watch(settings, str(inputs.absolute()), Path(folder))
        (row,) = json.loads((corpus / "stats.json").read_text())["sources"].values()
        steps = json.loads((corpus.parent / "logs/curate/throughput.json").read_text())["steps"]
    dropped = row["dropped"].get("near duplicate", 0)
    print(
        f"| {size / 1e6:.0f} MB | {row['read']:,} | {row['read'] // COPY_EVERY:,} | {dropped:,} "
        f"| {seconds:.0f} | {size / 1e6 / seconds:.2f} | {peak / 2**20:.0f} MiB |",
        flush=True,
    )
    return list(steps)


def write(corpus: Path, folder: Path, files: int) -> None:
    """JSON lines, each file from its own seed, so that any one can be made alone."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [
        text
        for file in sorted(corpus.glob("train/*.parquet"))
        for text in pq.read_table(file, columns=["text"])["text"].to_pylist()
    ]
    random.Random(0).shuffle(texts)
    for number in range(files):
        path = folder / f"{number:03d}.jsonl"
        if path.exists():
            continue
        aside, written = path.with_suffix(".part"), 0
        with open(aside, "w", encoding="utf-8") as handle:
            for place, text in changed(texts, number):
                written += handle.write(json.dumps({"id": f"{number}-{place}", "text": text}) + "\n")
                if written >= FILE_MEGABYTES * 10**6:
                    break
        aside.replace(path)


def changed(texts: list[str], seed: int) -> Iterator[tuple[int, str]]:
    """Documents without end: other numbers, and one word in four replaced."""
    choose = random.Random(seed)
    text = ""
    for place in itertools.count():
        if place % COPY_EVERY == COPY_EVERY - 1:
            yield place, f"{text} copy{seed}x{place}"
            continue
        text = choose.choice(texts)
        text = NUMBER.sub(lambda match: str(choose.randrange(10 ** len(match[0]))), text)
        words = text.split(" ")
        for index in choose.sample(range(len(words)), len(words) // 4):
            words[index] = f"term{choose.randrange(10**5)}"
        text = " ".join(words)
        yield place, text


if __name__ == "__main__":
    main()
