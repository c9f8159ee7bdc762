"""The data card: both forms hold the figures, text stays text, and `datasets` reads the folder."""

import json
from pathlib import Path

import pytest
import yaml

from data_curation.card import LENGTHS, length_class
from data_curation.curate import main
from meditron.config import CurateConfig, FilterConfig, Recipe, SourceConfig
from meditron.config.recipe import resolve

HOSTILE = "<script>alert(1)</script> a | b"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    for name, count in (("notes", 20), ("books", 4)):
        texts = [f"{HOSTILE} {name} {n}: eGFR <60 and " + f"finding{n} " * 20 * (n + 1) for n in range(count)]
        lines = [
            json.dumps({"id": str(n), "text": text}) for n, text in enumerate([*texts, texts[0], "short"])
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    config = CurateConfig(
        sources={
            "notes": SourceConfig(path="notes.jsonl", reader="jsonl", license="CC-BY-4.0"),
            "books": SourceConfig(path="books.jsonl", reader="jsonl", kind="general", license="CC0"),
        },
        filters=FilterConfig(max_repeated_line_fraction=1.0),
        validation_fraction=0.2,
    )
    config.dedup.near = False
    recipe = resolve(Recipe(work_dir=str(folder / "work"), data_root=str(folder), curate=config))
    main(recipe)
    return Path(str(recipe.curate.output))


def test_markdown_card(corpus: Path) -> None:
    card = (corpus / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    files = yaml.safe_load(head)["configs"][0]["data_files"]
    assert [entry["split"] for entry in files] == ["train", "validation"]
    assert body.lstrip().startswith("# corpus\n")
    assert "| exact duplicate | 1 | 1 | 2 |" in body
    assert "| too few characters | 1 | 1 | 2 |" in body
    assert "| CC-BY-4.0 | 20 |" in body
    assert "<script>" not in body
    assert "eGFR &lt;60" in body
    table = body.split("## Lengths, characters")[1].split("##")[0].strip().splitlines()
    assert table[0] == "| documents | notes | books |"
    assert table[1] == "|---|---|---|"
    assert len(table) == 2 + len(LENGTHS) + 1
    assert sum(int(line.split("|")[2]) for line in table[2:]) == 20


def test_page_holds_the_same_and_runs_nothing(corpus: Path) -> None:
    page = (corpus / "card.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert '<th>exact duplicate</th><td class="n">2</td>' in page
    assert "http" not in page


def test_length_classes() -> None:
    assert [length_class(n) for n in (0, 499, 500, 1999, 2000, 10**6)] == [0, 0, 1, 1, 2, len(LENGTHS)]


def test_datasets_reads_the_corpus(corpus: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(corpus), cache_dir=str(tmp_path))
    statistics = json.loads((corpus / "stats.json").read_text())["sources"]
    for split in ("train", "validation"):
        assert len(loaded[split]) == sum(row[split] for row in statistics.values())
    assert set(loaded["train"].column_names) == {"id", "text", "source", "title", "license", "metadata"}
