"""Benchmark questions are found in documents, shown with both sides, and left out or blanked."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_curation.curate import main
from data_curation.decontaminate.benchmarks import Item, load_items
from data_curation.decontaminate.match import build_index, common_runs, judge
from meditron.config import BenchmarkConfig, CurateConfig, DecontaminateConfig, Recipe, SourceConfig
from meditron.config.recipe import resolve
from meditron.errors import InputError

QUESTION = (
    "A 54-year-old man with type 2 diabetes comes to the clinic with a blood pressure of 152/94 mmHg and "
    "albuminuria of 300 mg/g; which drug lowers his risk of kidney failure most?"
)
SHORT_QUESTION = "Which vitamin deficiency causes night blindness in young children worldwide?"


def filler(seed: int) -> str:
    return " ".join(f"finding{seed}x{n}" for n in range(40))


def items(*texts: str) -> list[Item]:
    return [Item(benchmark="b", name=str(n), text=text) for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (f"{filler(1)} {QUESTION.upper().replace(',', '')} {filler(2)}", "13 words in a row"),
        (
            f"{filler(1)} comes to the CLINIC with a blood pressure of 152/94 mmHg, and more",
            "13 words in a row",
        ),
        (f"{filler(1)} {SHORT_QUESTION}", "80% of the runs of 8 words"),
        (f"{filler(1)} a man with type 2 diabetes comes to the clinic", None),
        (f"{filler(1)} which vitamin deficiency causes night blindness", None),
    ],
)
def test_the_two_rules(text: str, rule: str | None) -> None:
    index = build_index(items(QUESTION, SHORT_QUESTION))
    verdict = judge(index.find(text), index, set())
    assert [found for found, _ in verdict.values()] == ([rule] if rule else [])


def test_places_are_those_of_the_words_whatever_their_case_folds_to() -> None:
    index = build_index(items(SHORT_QUESTION))
    text = f"Straße İstanbul ß: {SHORT_QUESTION}"
    hits = index.find(text)
    assert text[min(hit.start for hit in hits) : max(hit.end for hit in hits)] == SHORT_QUESTION.rstrip("?")


def test_common_wording_proves_nothing() -> None:
    index = build_index(items(QUESTION))
    documents = [index.find(f"{filler(n)} {QUESTION}") for n in range(12)]
    assert common_runs(documents, 12) == set()
    assert judge(documents[0], index, common_runs(documents, 11)) == {}


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.jsonl", '{"question": "q1"}\n{"question": "q2", "context": "c"}', ["q1", "q2", "c"]),
        (
            "a.json",
            '{"77": {"QUESTION": "q", "CONTEXTS": ["c1", "c2"], "LONG_ANSWER": "no"}}',
            ["q", "c1", "c2"],
        ),
        ("a.json", '[{"question": "q", "options": ["no"]}]', ["q"]),
        ("a.csv", "id,Question\n1,q1\n2,q2\n", ["q1", "q2"]),
        ("a.csv", '"q1, with comma",A,B,C,D,A\nq2,A,B,C,D,B\n', ["q1, with comma", "q2"]),
    ],
)
def test_forms_of_benchmark_files(name: str, content: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    loaded = load_items({"b": BenchmarkConfig(path=name)}, tmp_path)
    assert [item.text for item in loaded] == found


def test_a_benchmark_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "x"}')
    with pytest.raises(InputError, match="no record has one of the fields"):
        load_items({"b": BenchmarkConfig(path="a.jsonl")}, tmp_path)
    with pytest.raises(InputError, match="no file"):
        load_items({"b": BenchmarkConfig(path="none.json")}, tmp_path)
    (tmp_path / "a.jsonl").write_text('{"question": ')
    with pytest.raises(InputError, match="cannot be read as a benchmark"):
        load_items({"b": BenchmarkConfig(path="a.jsonl")}, tmp_path)


@pytest.mark.parametrize("action", ["drop", "redact"])
def test_a_planted_question_does_not_reach_the_corpus(action: str, tmp_path: Path) -> None:
    documents = [{"id": str(n), "text": filler(n)} for n in range(6)]
    documents.append({"id": "planted", "text": f"Before {filler(50)}. {QUESTION} After {filler(51)}."})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "b.jsonl").write_text(json.dumps({"question": QUESTION}) + '\n{"question": "Too short?"}')
    curate = CurateConfig(
        sources={"notes": SourceConfig(path="a.jsonl", reader="jsonl")},
        decontaminate=DecontaminateConfig(
            benchmarks={"exam": BenchmarkConfig(path="b.jsonl")}, action=action
        ),
    )
    recipe = resolve(Recipe(work_dir=str(tmp_path / "work"), data_root=str(tmp_path), curate=curate))
    main(recipe)
    corpus = Path(str(recipe.curate.output))
    texts = [row["text"] for file in corpus.glob("*/*.parquet") for row in pq.read_table(file).to_pylist()]
    assert not any("albuminuria" in text for text in texts)
    planted = [text for text in texts if text.startswith("Before")]
    assert planted == ([f"Before {filler(50)}. […]? After {filler(51)}."] if action == "redact" else [])
    (line,) = map(json.loads, (corpus / "contamination.jsonl").read_text().splitlines())
    assert (line["id"], line["benchmark"], line["item"]) == ("notes/planted", "exam", "b.jsonl:1")
    assert line["document_text"] == QUESTION.rstrip("?")
    assert line["benchmark_text"] == QUESTION
    stats = json.loads((corpus / "stats.json").read_text())
    assert stats["benchmarks"] == {"exam": {"texts": 2, "too_short": 1, "found": 1}}
    dropped = {"benchmark question": 1} if action == "drop" else {}
    assert stats["sources"]["notes"]["dropped"] == dropped
