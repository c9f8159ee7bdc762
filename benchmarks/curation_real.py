"""Curation of real documents: CRAFT against its reference text, MedQuAD's pairs, tokens by source.

Usage: python benchmarks/curation_real.py DATA WORK_DIR TOKENIZER
    DATA       the folders that the head of configs/real-small.yaml lists
    WORK_DIR   where the corpus and the shards go
    TOKENIZER  folder with tokenizer.json
"""

import json
import re
import statistics
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_curation.clean import normalise
from data_curation.readers import RawDocument, read_source

RUN = 5


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    data, work, tokenizer = sys.argv[1:]
    craft(Path(data, "craft_fulltext"))
    recipe = Path(__file__).resolve().parents[1] / "configs" / "real-small.yaml"
    common = ["--config", str(recipe), "--data_root", data, "--work_dir", work]
    for words in (
        ["curate", "--curate.max_bad_fraction", "0.01"],
        ["tokenize", "--tokenize.tokenizer", tokenizer],
    ):
        subprocess.run([sys.executable, "-m", "meditron", words[0], *common, *words[1:]], check=True)
    table(Path(work))


def craft(folder: Path) -> None:
    """How much of each reference text ours has, and the other way round: words, and runs of five."""
    shares: dict[str, list[float]] = {}
    for path in sorted((folder / "nxml").glob("*.nxml")):
        pmid = re.search(r"pub-id-type=.pmid.>(\d+)<", path.read_text(encoding="utf-8"))
        reference = folder / "txt" / f"{pmid[1]}.txt" if pmid else folder
        if not reference.is_file():
            continue
        (document,) = read_source(path, "jats", {})
        assert isinstance(document, RawDocument)
        ours, theirs = words(normalise(document.text)), words(reference.read_text(encoding="utf-8"))
        for unit, first, second in (("words", ours, theirs), (f"runs of {RUN}", runs(ours), runs(theirs))):
            common = (Counter(first) & Counter(second)).total()
            shares.setdefault(f"reference's {unit} in ours", []).append(common / len(second))
            shares.setdefault(f"our {unit} in the reference", []).append(common / len(first))
    print("| CRAFT | articles | mean | lowest |\n|---|---|---|---|")
    for name, values in shares.items():
        print(f"| {name} | {len(values)} | {statistics.mean(values):.4f} | {min(values):.4f} |", flush=True)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text))


def runs(found: list[str]) -> list[tuple[str, ...]]:
    return list(zip(*(found[offset:] for offset in range(RUN)), strict=False))


def table(work: Path) -> None:
    """What became of each source's records, and its tokens."""
    sources = json.loads((work / "corpus/stats.json").read_text())["sources"]
    tokens = json.loads((work / "shards/tokens.json").read_text())["sources"]
    print(
        "\n| source | read | kept | train tokens | validation tokens | dropped |\n|---|---|---|---|---|---|"
    )
    for name, row in sources.items():
        own = tokens[name]
        print(
            f"| {name} | {row['read']:,} | {row['kept']:,} | {own['train_tokens']:,} "
            f"| {own['validation_tokens']:,} | {listed(row)} |"
        )


def listed(row: dict[str, object]) -> str:
    dropped = row["dropped"]
    assert isinstance(dropped, dict)
    reasons: Iterable[tuple[str, object]] = [*dropped.items(), ("unreadable", row["quarantined"])]
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons if count) or "none"


if __name__ == "__main__":
    main()
