"""The demo's data: well-formed, large enough, and with questions that have one right answer each."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lxml import etree, html

from meditron.demo.prepare import DATA

ARTICLES = sorted((DATA / "jats").glob("*.nxml"))
GUIDELINES = sorted((DATA / "guidelines").iterdir())


def json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def squeezed(texts: Any) -> str:
    return " ".join(" ".join(texts).split())


def all_text() -> dict[str, str]:
    """Text of each medical file, mark-up left out."""
    texts = {path.name: squeezed(etree.parse(path).getroot().itertext()) for path in ARTICLES}
    texts["trials.xml"] = squeezed(etree.parse(DATA / "medline" / "trials.xml").getroot().itertext())
    for path in GUIDELINES:
        text = path.read_text(encoding="utf-8")
        texts[path.name] = squeezed(
            [html.fromstring(text.encode()).text_content() if path.suffix == ".html" else text]
        )
    return texts


@pytest.mark.parametrize("path", ARTICLES, ids=lambda path: path.stem)
def test_an_article_is_jats_with_sections_tables_and_references(path: Path) -> None:
    root = etree.parse(path, etree.XMLParser(resolve_entities=False)).getroot()
    assert root.tag == "article"
    assert root.findtext(".//article-title")
    assert len(root.findall("./body/sec")) >= 2
    assert root.find(".//table-wrap//td") is not None
    targets = {element.get("id") for element in root.iter("ref")}
    cited = {element.get("rid") for element in root.iter("xref") if element.get("ref-type") == "bibr"}
    assert cited
    assert cited <= targets


def test_the_articles_have_what_makes_jats_hard() -> None:
    together = "".join(path.read_text(encoding="utf-8") for path in ARTICLES)
    for mark in (
        "rowspan",
        "colspan",
        "<mml:math",
        "<tex-math",
        "<sub>",
        "<sup>",
        "<fig ",
        "table-wrap-foot",
    ):
        assert mark in together, mark
    assert len(ARTICLES) == 12


def test_every_abstract_is_structured() -> None:
    records = etree.parse(DATA / "medline" / "trials.xml").getroot().findall("PubmedArticle")
    assert len(records) == 40
    for record in records:
        labels = [part.get("Label") for part in record.iter("AbstractText")]
        assert labels == ["BACKGROUND", "METHODS", "RESULTS", "CONCLUSIONS"]
    titles = Counter(record.findtext(".//ArticleTitle") for record in records)
    assert sorted(titles.values())[-2:] == [1, 2]  # one planted duplicate


def test_the_corpus_is_dense_and_large_enough() -> None:
    texts = all_text()
    assert 60_000 < sum(map(len, texts.values())) < 140_000
    together = " ".join(texts.values())
    for comparator in ("<", ">", "≥", "≤"):
        assert together.count(comparator) >= 20
    for statement in ("<140/90", "HbA1c <7%", "eGFR ≥45", "95% CI", "Na <130 mmol/L", "10⁹/L"):
        assert statement in together.replace("HbA 1c", "HbA1c").replace("\xa0", " "), statement


def test_replay_text_is_general_with_one_planted_duplicate() -> None:
    essays = json_lines(DATA / "replay" / "essays.jsonl")
    assert len(essays) >= 20
    assert sorted(Counter(essay["text"] for essay in essays).values())[-2:] == [1, 2]
    assert sum(len(essay["text"]) for essay in essays) > 20_000


def test_multiple_choice_questions_have_one_right_option() -> None:
    questions = json_lines(DATA / "questions" / "medqa.jsonl")
    assert len(questions) >= 60
    assert len({item["question"] for item in questions}) == len(questions)
    for item in questions:
        assert list(item["options"]) == ["A", "B", "C", "D"]
        assert len(set(item["options"].values())) == 4, item["question"]
        assert item["answer"] == item["options"][item["answer_idx"]]
    letters = Counter(item["answer_idx"] for item in questions)
    assert max(letters.values()) - min(letters.values()) <= 3


def test_one_question_is_planted_in_the_corpus_and_no_other() -> None:
    together = " ".join(all_text().values())
    questions = json_lines(DATA / "questions" / "medqa.jsonl")
    found = [item["question"] for item in questions if " ".join(item["question"].split()[:13]) in together]
    assert [question[:24] for question in found] == ["A 3-year-old boy has a b"]


def test_mmlu_rows_have_four_options_and_a_letter() -> None:
    paths = sorted((DATA / "questions" / "mmlu" / "test").glob("*_test.csv"))
    rows = [row for path in paths for row in csv.reader(path.open(encoding="utf-8", newline=""))]
    assert [path.stem for path in paths] == ["anatomy_test", "clinical_knowledge_test"]
    assert len(rows) == len({row[0] for row in rows}) == 20
    assert all(len(row) == 6 and len(set(row[1:5])) == 4 and row[5] in "ABCD" for row in rows)


def test_yes_no_maybe_items_carry_context_and_truth() -> None:
    items = json.loads((DATA / "questions" / "pubmedqa.json").read_text(encoding="utf-8"))
    truth = json.loads((DATA / "questions" / "pubmedqa_ground_truth.json").read_text())
    assert truth == {key: item["final_decision"] for key, item in items.items()}
    assert len(items) == 30
    assert set(Counter(truth.values())) == {"yes", "no", "maybe"}
    assert len({item["QUESTION"] for item in items.values()}) == 30
    assert all(len(item["CONTEXTS"]) == len(item["LABELS"]) == 3 for item in items.values())


def test_instructions_are_conversations_that_end_with_an_answer() -> None:
    train = json_lines(DATA / "instructions" / "train.jsonl")
    validation = json_lines(DATA / "instructions" / "validation.jsonl")
    assert len(train) >= 150
    assert len(validation) == 20
    first = [json.dumps(item["messages"][:-1]) for item in train + validation]
    assert len(set(first)) == len(first)
    for item in train + validation:
        roles = [message["role"] for message in item["messages"]]
        assert roles in (["user", "assistant"] * (len(roles) // 2), ["system", "user", "assistant"])
        assert all(message["content"].strip() for message in item["messages"])


def test_no_evaluation_question_is_among_the_instructions() -> None:
    asked = {item["question"] for item in json_lines(DATA / "questions" / "medqa.jsonl")}
    for item in json_lines(DATA / "instructions" / "train.jsonl"):
        assert item["messages"][0]["content"] not in asked
