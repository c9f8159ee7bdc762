"""Each filter on texts on both sides of its bound, and what their verdicts leave in the statistics."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document

from data_curation import train_classifier
from data_curation.curate import main
from data_curation.filters import build_filters
from data_curation.filters.measures import Measures
from data_curation.filters.quality import QUALITY_RULES, Quality
from data_curation.filters.retracted import Retracted
from meditron.config import CurateConfig, FilterConfig, Recipe, SourceConfig
from meditron.config.recipe import resolve
from meditron.errors import ConfigError, InputError

PROSE = (
    "The patients were treated with aspirin for six months, and blood pressure was measured every week. "
    "Those that have diabetes were followed for another year to see what such a therapy would be worth. "
    "Nobody left before half of it was over, though seven people asked about stopping because they felt "
    "dizzy in the morning or could not sleep, which is common at this dose."
)
TABLE = "\n".join(f"| HbA1c visit {n} | {n}.1 | {n}.4 | <{n} |" for n in range(40))


def document(text: str, title: str = "", **fields: object) -> Document:
    return Document(text=text, id="a", metadata={"title": title, "fields": fields, "kind": "medical"})


@pytest.mark.parametrize(
    ("text", "general", "medical"),
    [
        (PROSE, None, None),
        ("Fever and the cough.", "gopher: few words", "gopher: few words"),
        (PROSE + " The genotype {A, B} was found in ten of them.", "c4: braces", None),
        (PROSE + "\n" + TABLE, "gopher: few letters", None),
        ("\n".join(f"- {item}" for item in PROSE.split(", ")), "gopher: bullets", None),
        (PROSE + " Lorem ipsum dolor sit amet.", "c4: lorem ipsum", "c4: lorem ipsum"),
        ("\n".join([PROSE] * 9), "fineweb: repeated lines", "fineweb: repeated lines"),
        (" ".join([PROSE] * 12), "gopher: repeated 5-grams", "gopher: repeated 5-grams"),
    ],
)
def test_bounds_for_the_web_and_for_medical_text(text: str, general: str | None, medical: str | None) -> None:
    for profile, reason in (("general", general), ("medical", medical)):
        verdict = Quality.of(profile, {})(document(text))  # type: ignore[arg-type]
        assert verdict == (True if reason is None else (False, reason)), profile


def test_no_bound_for_medical_text_is_stricter() -> None:
    for name, rule in QUALITY_RULES.items():
        looser = rule.medical <= rule.general if rule.side == "least" else rule.medical >= rule.general
        assert looser, name


@pytest.mark.parametrize("width", [2, 3, 5, 8])
def test_runs_of_words_are_counted_as_datatrove_counts_them(width: int) -> None:
    from datatrove.pipeline.filters import gopher_repetition_filter as reference

    choose = random.Random(width)
    for length in (1, width, 30, 400):
        words = [choose.choice(["a", "bb", "ccc", "dddd"]) for _ in range(length)]
        text = " ".join(words)
        measures = Measures(text)
        assert measures.repeated_ngrams(width) == reference.find_all_duplicate(words, width) / len(text)
        runs = reference.get_n_grams(words, width)
        top = reference.find_top_duplicate(runs) / len(text) if runs else 0.0
        assert measures.top_ngram(width) == pytest.approx(top, abs=0.05)  # of equal counts any may be first


@pytest.mark.parametrize(
    ("title", "fields", "kept"),
    [
        ("Aspirin in stroke", {"publication_types": ["Journal Article"]}, True),
        ("Aspirin in stroke", {"publication_types": ["Journal Article", "Retracted Publication"]}, False),
        ("Aspirin in stroke", {"article_type": "retraction"}, False),
        ("RETRACTED: Aspirin in stroke", {}, False),
        ("Retraction notice: Aspirin in stroke", {}, False),
        ("Retracted papers in oncology", {}, True),
        ("Clot retraction in platelets", {}, True),
    ],
)
def test_retracted(title: str, fields: dict[str, object], kept: bool) -> None:
    verdict = Retracted()(document(PROSE, title, **fields))
    assert verdict == (True if kept else (False, "retracted"))


def test_only_what_is_surely_another_language_goes() -> None:
    pytest.importorskip("py3langid")
    from data_curation.filters.language import Language

    french = "Les patients ont été traités par aspirine pendant six mois, leur tension a été mesurée. "
    rule = Language(("en",), 0.9)
    assert rule(document(PROSE)) is True
    assert rule(document(french * 4)) == (False, "language fr")
    assert Language(("en", "fr"), 0.9)(document(french * 4)) is True
    assert rule(document("5 mg; 10 mg; 7 mL")) is True


def test_unknown_bounds_and_missing_classifiers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rule is called 'min_word'; did you mean 'min_words'"):
        build_filters(FilterConfig(quality="medical", quality_bounds={"min_word": 3}))
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="train-classifier"):
        build_filters(FilterConfig(classifier=str(tmp_path / "x.safetensors")))


def write_sources(folder: Path) -> dict[str, SourceConfig]:
    """A medical and a general source of 60 documents each, which share most words."""
    choose = random.Random(1)
    topics = {
        "clinic": ["insulin", "sepsis", "dose", "tumour", "renal"],
        "stories": ["king", "ship", "castle"],
    }
    for name, words in topics.items():
        lines = []
        for n in range(60):
            filler = [
                choose.choice(["the", "of", "and", "with", "to", "that", "have", "be"]) for _ in range(40)
            ]
            text = " ".join(filler + [choose.choice(words) for _ in range(12)] + [f"item{n}x{name}"])
            lines.append(json.dumps({"id": str(n), "text": text}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return {
        "clinic": SourceConfig(path="clinic.jsonl", reader="jsonl"),
        "stories": SourceConfig(path="stories.jsonl", reader="jsonl", kind="general"),
    }


def recipe_for(folder: Path, work: str, sources: dict[str, SourceConfig], **filters: object) -> Recipe:
    curate = CurateConfig(
        sources=sources,
        validation_fraction=0.2,
        filters=FilterConfig(**filters),  # type: ignore[arg-type]
    )
    curate.dedup.near = False
    return resolve(Recipe(work_dir=str(folder / work), data_root=str(folder), curate=curate))


def test_a_classifier_trained_on_a_corpus_drops_what_is_not_medical(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    recipe = recipe_for(tmp_path, "first", sources)
    recipe.curate.train_classifier.features = 2**12
    main(recipe)
    train_classifier.main(recipe)
    path = Path(str(recipe.curate.train_classifier.output))
    before = path.read_bytes()
    train_classifier.main(recipe)
    assert path.read_bytes() == before
    mislabelled = {"both": SourceConfig(path=["clinic.jsonl", "stories.jsonl"], reader="jsonl")}
    second = recipe_for(tmp_path, "second", mislabelled, classifier=str(path))
    main(second)
    corpus = Path(str(second.curate.output))
    (source,) = json.loads((corpus / "stats.json").read_text())["sources"].values()
    assert source["dropped"] == {"not medical by the classifier": 60}
    kept = [t for f in corpus.glob("*/*.parquet") for t in pq.read_table(f)["text"].to_pylist()]
    assert all("xclinic" in text for text in kept)


def test_a_classifier_needs_both_kinds(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, "work", {"clinic": write_sources(tmp_path)["clinic"]})
    main(recipe)
    with pytest.raises(InputError, match="only medical"):
        train_classifier.main(recipe)


def test_what_published_bounds_would_have_dropped_is_counted_and_kept(tmp_path: Path) -> None:
    texts = [f"{PROSE} Case {n} had the genotype {{A, {n}}}." for n in range(4)]
    lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = {"a": SourceConfig(path="a.jsonl", reader="jsonl")}
    recipe = recipe_for(tmp_path, "work", source, quality="medical")
    main(recipe)
    content = json.loads((Path(str(recipe.curate.output)) / "stats.json").read_text())["sources"]["a"]
    assert (content["kept"], content["would_drop"]) == (4, {"c4: braces": 4})
    assert "general rules: c4: braces" in {sample["reason"] for sample in content["samples"]}


def test_a_text_without_words_has_figures() -> None:
    for text in ("", "\n\n", "§"):
        measures = Measures(text)
        assert all(np.isfinite(rule.measure(measures)) for rule in QUALITY_RULES.values())
