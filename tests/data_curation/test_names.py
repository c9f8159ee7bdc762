"""Names of patients by presidio around a pipeline made here; those in eponyms and citations stay."""

import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_curation.curate import main
from data_curation.phi import names
from data_curation.phi.eponyms import is_full_name, may_be_patient
from data_curation.plan import make_plan
from meditron.config import CurateConfig, PhiConfig, Recipe, SourceConfig
from meditron.config.recipe import resolve
from meditron.errors import ConfigError, EnvironmentMissingError

PATIENTS = [
    "|Mary Johnson|, 34, was admitted with Crohn's disease.",
    "We saw |Ludwig van Houten| in March.",
    "|J. R. Okafor| tests his glucose daily and |Anna Maria Rossi| signs.",
    "History of |Jean-Paul Dubois|: smoker.",
    "Referred: |Smith, Mary| (34 years).",
    "|Élodie Müller-Brandt| was given 5 mg.",
    "His brother\n|Peter\nBrown| has it too.",
    "|Mary Johnson| and |Peter Brown| were seen in our clinic.",
    "[bib_ref] A trial, Lee [/bib_ref] |Mary Johnson| was seen.",
]
"""Texts with what names a patient between bars."""
TRAPS = [
    "|Crohn|'s disease",
    "|Kaplan-Meier| curves",
    "|Kaplan|-Meier curves",
    "Bland–|Altman| plot",
    "|Hodgkin Lymphoma| was excluded",
    "non-|Hodgkin| lymphoma",
    "|Mann-Whitney U| test",
    "|Mann Whitney| U test",
    "|Wilcoxon Signed| Rank test",
    "|Cox Proportional| Hazards regression",
    "|Cox| regression",
    "in |Glasgow|, Scotland",
    "|Glasgow Coma| Scale of 15",
    "|Glasgow Coma Scale| of 15",
    "|Guillain Barré| syndrome",
    "|Charles Bonnet| syndrome",
    "|Lou Gehrig|'s disease",
    "|Florence Nightingale|'s theory",
    "|Marie Charcot| and Tooth disease",
    "|Ehlers Danlos|-type syndrome",
    "|Robert Koch| Institute",
    "|Melinda Gates| Foundation",
    "the Bill & |Melinda Gates| grant",
    "|Henoch Schönlein| purpura",
    "|Hardy|-Weinberg equilibrium",
    "|Sjögren| syndrome",
    "|Mary Johnson| et al. found",
    "|Mary Johnson| and colleagues found",
    "(|Mary Johnson|, 2010)",
    "|Mary Johnson| (2010) found",
    "|Mary Johnson| [12] found",
    "|Mary Johnson|, MD, wrote it",
    "Dr. |Mary Johnson| operated",
    "Sir |Harold Gillies| described it",
    "|Johnson M|, Brown P. Aspirin in adults.",
    "|Johnson, M.| Aspirin in adults.",
    "[bib_ref] Aspirin in adults, |Mary Johnson| [/bib_ref]",
    "|BRAF V600E| and |DNA PCR|",
    "|MRI BRAIN| showed",
]
"""Texts with what a model may take for a person, and is none or no patient."""


def marked(line: str) -> tuple[str, list[tuple[int, int]]]:
    """A line without its bars, and the places that they enclosed."""
    pieces = line.split("|")
    ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]
    return "".join(pieces), list(zip(ends[::2], ends[1::2], strict=False))


@pytest.mark.parametrize("line", PATIENTS)
def test_patients_are_kept(line: str) -> None:
    text, places = marked(line)
    assert places
    assert [place for place in places if may_be_patient(text, *place)] == places


@pytest.mark.parametrize("line", TRAPS)
def test_eponyms_and_authors_are_let_go(line: str) -> None:
    text, places = marked(line)
    assert places
    assert not [text[start:end] for start, end in places if may_be_patient(text, start, end)]


def test_a_full_name_has_two_parts() -> None:
    assert is_full_name("Mary Johnson")
    assert is_full_name("M. Johnson")
    assert not is_full_name("Johnson")
    assert not is_full_name("mary johnson")
    assert not is_full_name("")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline that knows some names by heart."""
    pytest.importorskip("presidio_analyzer", reason="the extra `presidio` is not installed")
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    persons = ["Mary Johnson", "Peter Brown", "Crohn", "Kaplan", "Lou Gehrig"]
    patterns = [{"label": "PERSON", "pattern": person} for person in persons]
    nlp.add_pipe("entity_ruler").add_patterns([*patterns, {"label": "ORG", "pattern": "WHO"}])
    folder = tmp_path_factory.mktemp("pipeline") / "names"
    nlp.to_disk(folder)
    return str(folder)


def test_names_are_found_where_they_stand(pipeline: str) -> None:
    text = (
        "WHO: Lou Gehrig's disease.\n\n\nMary Johnson took 5 mg for Crohn's disease.\n\nPeter Brown did not."
    )
    found = names.find_with_names(f"{text} Mr. Peter Brown.", pipeline)
    assert [text[f.start : f.end] for f in found[:2]] == ["Mary Johnson", "Peter Brown"]
    assert [f.kind for f in found] == ["NAME"] * 3
    assert len(names.find_with_names(f"{text} Mr. Peter Brown.", None)) == 1


def test_only_the_recognizer_of_persons_is_at_work(pipeline: str) -> None:
    analyzer = names.load_analyzer(pipeline)
    assert [r.name for r in analyzer.analyzer_engine.registry.recognizers] == ["SpacyRecognizer"]
    assert names.load_analyzer(pipeline) is analyzer


def test_a_recognizer_that_was_trained_finds_names_without_the_components_it_needs_not(
    tmp_path: Path,
) -> None:
    pytest.importorskip("presidio_analyzer", reason="the extra `presidio` is not installed")
    spacy = pytest.importorskip("spacy")
    from spacy.training import Example

    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    ner = nlp.add_pipe("ner")
    ner.add_label("PER")
    texts = [f"{name} was seen in our clinic." for name in ("Mary Johnson", "Peter Brown", "Anna Rossi")]
    examples = [
        Example.from_dict(nlp.make_doc(text), {"entities": [(0, text.index(" was"), "PER")]})
        for text in texts
    ]
    nlp.initialize(lambda: examples)
    for _ in range(20):
        nlp.update(examples)
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("morphologizer").add_label("_")
    nlp.to_disk(tmp_path / "trained")
    text = "It was late.\n\nPeter Brown was seen in our clinic."
    (found,) = names.names_in(text, str(tmp_path / "trained"))
    assert text[found.start : found.end] == "Peter Brown"
    kept = names.load_analyzer(str(tmp_path / "trained")).analyzer_engine.nlp_engine.nlp["en"].pipe_names
    assert kept == ["ner", "sentencizer"]


def test_long_texts_take_no_long_time_and_lose_nothing(pipeline: str) -> None:
    sentence = "Mary Johnson took 5 mg once more, and nothing else. "
    text = sentence * 4000 + "\n" * 5000 + "x" * 1_200_000  # over what spaCy takes at once
    start = time.perf_counter()
    assert len(names.names_in(text, pipeline)) == 4000
    assert time.perf_counter() - start < 60


def recipe_with(tmp_path: Path, **phi: object) -> Recipe:
    text = (
        "Mary Johnson took aspirin 75 mg daily; Crohn's disease was excluded, blood pressure <140/90 mmHg. "
        * 3
    )
    (tmp_path / "n.jsonl").write_text(json.dumps({"id": "a", "text": text}))
    curate = CurateConfig(
        sources={"n": SourceConfig(path="n.jsonl", reader="jsonl")},
        phi=PhiConfig(**phi),  # type: ignore[arg-type]
        validation_fraction=0.0,
    )
    return resolve(Recipe(work_dir=str(tmp_path / "work"), data_root=str(tmp_path), curate=curate))


def test_curation_redacts_them_and_shows_them_nowhere(pipeline: str, tmp_path: Path) -> None:
    main(recipe_with(tmp_path, action="redact", names_model=pipeline))
    corpus = tmp_path / "work/corpus"
    (file,) = corpus.glob("train/*.parquet")
    (text,) = pq.read_table(file)["text"].to_pylist()
    assert text.startswith("[NAME] took aspirin 75 mg daily; Crohn's disease was excluded")
    main(recipe_with(tmp_path, action="report", names_model=pipeline))
    content = (corpus / "stats.json").read_text()
    (source,) = json.loads(content)["sources"].values()
    assert source["phi"] == {"documents": 1, "found": {"NAME": 3}}
    assert "Mary" not in content + (corpus / "README.md").read_text() + (corpus / "card.html").read_text()


def test_another_model_is_another_corpus(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    keys = []
    for content in (None, "a", "bc"):
        if content is not None:
            (tmp_path / "model/weights").write_text(content)
        model = str(tmp_path / "model") if content is not None else None
        recipe = recipe_with(tmp_path, names_model=model)
        keys.append(make_plan(recipe.curate, tmp_path, 0).key)
    assert len(set(keys)) == 3


def test_what_is_missing_is_said_before_the_work_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissingError, match=r"pip install 'meditron\[presidio\]'"):
        main(recipe_with(tmp_path, names_model="no_such_pipeline"))
    assert not list((tmp_path / "work").rglob("*.parquet"))


def test_a_model_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="the extra `presidio` is not installed")
    spacy = pytest.importorskip("spacy")
    with pytest.raises(
        EnvironmentMissingError, match="'no_such_pipeline' is neither a folder nor an installed"
    ):
        names.load_analyzer("no_such_pipeline")
    with pytest.raises(ConfigError, match="cannot be loaded by spaCy"):
        names.load_analyzer(str(tmp_path))
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ConfigError, match=r"recognizes no persons \(its labels: none\)"):
        names.load_analyzer(str(tmp_path / "blank"))


def test_a_model_of_names_without_their_class_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"curate\.phi\.names_model.*NAME"):
        PhiConfig(names_model="en_core_web_lg", classes=["EMAIL"])
