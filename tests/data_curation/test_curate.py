import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_curation.curate import main
from meditron.config import CurateConfig, Recipe, SourceConfig
from meditron.config.recipe import resolve
from meditron.errors import ConfigError, InputError, MeditronError, QuarantineError
from meditron.manifest import read_manifest

GOLDEN = "BP <140 mmHg or eGFR <60; target HbA1c >7%"


def recipe_for(tmp_path: Path, lines: list[object], work: str = "work", **settings: object) -> Recipe:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (tmp_path / "a.jsonl").write_text(text)
    sources = {"notes": SourceConfig(path="a.jsonl", reader="jsonl", license="CC0-1.0")}
    curate = CurateConfig(sources=sources, validation_fraction=0.2, **settings)  # type: ignore[arg-type]
    return resolve(Recipe(work_dir=str(tmp_path / work), data_root=str(tmp_path), curate=curate))


def document(number: int) -> dict[str, str]:
    words = " ".join(f"finding{number * 100 + n}" for n in range(30))
    return {"id": str(number), "text": f"Patient {number}: {GOLDEN}. {words}"}


def texts(recipe: Recipe, split: str) -> dict[str, str]:
    files = sorted(Path(str(recipe.curate.output), split).glob("*.parquet"))
    return {row["id"]: row["text"] for file in files for row in pq.read_table(file).to_pylist()}


def test_a_corpus_is_deduplicated_split_and_accounted_for(tmp_path: Path) -> None:
    again = {"id": "copy", "text": document(3)["text"].upper()}
    recipe = recipe_for(tmp_path, [*map(document, range(20)), again, {"id": "s", "text": "short"}])
    main(recipe)
    train, validation = texts(recipe, "train"), texts(recipe, "validation")
    assert len(train) + len(validation) == 20
    assert not train.keys() & validation.keys()
    assert all(GOLDEN in text for text in [*train.values(), *validation.values()])
    folder = Path(str(recipe.curate.output))
    stats = json.loads((folder / "stats.json").read_text())["sources"]["notes"]
    assert stats["read"] == 22
    assert stats["kept"] == 20
    assert stats["dropped"] == {"too few characters": 1, "exact duplicate": 1}
    assert read_manifest(folder, kind="corpus", check_files="full").counts["kept"] == 20


def test_a_copy_with_small_changes_is_dropped_and_its_original_named(tmp_path: Path) -> None:
    longer = {"id": "0", "text": " ".join(document(number)["text"] for number in range(8))}
    changed = {"id": "near", "text": longer["text"].replace("Patient 4", "Case 4")}
    recipe = recipe_for(tmp_path, [longer, *map(document, range(20, 26)), changed])
    main(recipe)
    folder = Path(str(recipe.curate.output))
    (record,) = map(json.loads, (folder / "duplicates.jsonl").read_text().splitlines())
    assert record.pop("similarity") > 0.9
    assert record == {
        "id": "notes/near", "source": "notes",
        "kept_id": "notes/0", "kept_source": "notes", "rule": "near duplicate",
    }  # fmt: skip
    recipe.curate.dedup.near = False
    main(recipe)
    assert (folder / "duplicates.jsonl").read_text() == ""


def test_a_paper_is_kept_and_its_abstract_dropped(tmp_path: Path) -> None:
    abstract = {**document(1), "pmid": "77", "title": "x"}
    paper = {**document(2), "id": "paper", "pmid": "77", "title": "y"}
    paper["text"] += " and more of it" * 20
    recipe = recipe_for(tmp_path, [abstract, paper, *map(document, range(3, 6))])
    main(recipe)
    (record,) = map(
        json.loads, (Path(str(recipe.curate.output)) / "duplicates.jsonl").read_text().splitlines()
    )
    assert (record["id"], record["kept_id"], record["rule"]) == ("notes/1", "notes/paper", "same work")


def test_the_split_does_not_depend_on_other_documents_or_workers(tmp_path: Path) -> None:
    few = recipe_for(tmp_path, list(map(document, range(30))))
    main(few)
    many = recipe_for(tmp_path, list(map(document, range(60))), work="other", workers=2)
    main(many)
    assert texts(few, "validation").keys() <= texts(many, "validation").keys()
    assert texts(few, "train").keys() <= texts(many, "train").keys()


def test_bad_records_are_quarantined_until_they_are_too_many(tmp_path: Path) -> None:
    lines = [*map(document, range(20)), '{"broken']
    with pytest.raises(QuarantineError, match=r"the first is a\.jsonl"):
        main(recipe_for(tmp_path, lines))
    recipe = recipe_for(tmp_path, lines, max_bad_fraction=0.1)
    main(recipe)
    (entry,) = (Path(str(recipe.curate.output)) / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(entry)["record"] == "line 21"


def test_an_empty_corpus_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source holds a single record"):
        main(recipe_for(tmp_path, ["", ""]))


def test_an_unknown_reader_is_named(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, [document(1)])
    recipe.curate.sources["notes"].reader = "jast"
    with pytest.raises(ConfigError, match="did you mean 'jats'"):
        main(recipe)


def test_a_worker_that_is_killed_is_one_sentence_and_the_next_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(tmp_path, list(map(document, range(30))), workers=2, chunk_megabytes=0.001)
    recipe.curate.sources["more"] = SourceConfig(path="b.jsonl", reader="jsonl")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(document(n)) for n in range(40, 60)))
    with monkeypatch.context() as patch:
        patch.setattr("data_curation.executor.local._start_worker", _die)
        with pytest.raises(MeditronError, match=r"worker process was killed.*curate\.workers"):
            main(recipe)
    main(recipe)
    assert len(texts(recipe, "train")) + len(texts(recipe, "validation")) == 50


def _die(executor: object) -> None:
    os._exit(9)


def test_parts_read_on_several_machines_make_the_same_corpus(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        recipe = recipe_for(tmp_path / name, list(map(document, range(30))), chunk_megabytes=0.001)
        recipe.curate.sources["notes"].path = "*.jsonl"
        for number in range(4):
            lines = [json.dumps(document(100 * number + n)) for n in range(5)]
            (tmp_path / name / f"more{number}.jsonl").write_text("\n".join(lines))
        if name == "two":
            for part in range(3):
                recipe.curate.part, recipe.curate.parts = part, 3
                main(recipe)
                assert not Path(str(recipe.curate.output)).exists()
            recipe.curate.part = None
        main(recipe)
    one, two = (tmp_path / name / "work" / "corpus" for name in ("one", "two"))
    for split in ("train", "validation"):
        files = sorted(file.name for file in (one / split).iterdir())
        assert len(files) > 1
        assert files == sorted(file.name for file in (two / split).iterdir())
        assert all((one / split / file).read_bytes() == (two / split / file).read_bytes() for file in files)
