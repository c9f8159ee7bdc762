import json
import math
from pathlib import Path

import pytest
from scipy.stats import binomtest

from evaluation.report.compare import Change, Score, compare_perplexities, mcnemar
from evaluation.report.published import quoted
from evaluation.report.questions import evenly, question_sets
from evaluation.report.reading import Notes
from evaluation.report.results import perplexity_rows, read_results, task_rows
from evaluation.report.summary import pooled
from meditron.manifest import write_manifest


def test_the_earliest_model_comes_first(work: Path) -> None:
    notes = Notes()
    models = read_results(work / "results", [], notes)
    assert [model.label for model in models] == ["base", "pretrained"]
    assert notes.found == []


def test_changes_count_the_same_questions(work: Path) -> None:
    notes = Notes()
    rows = task_rows(read_results(work / "results", [], notes), notes)
    assert [(row.task, row.protocol) for row in rows] == [
        ("medqa", "letter"),
        ("medqa", "answer"),
        ("pubmedqa", "letter"),
    ]
    for row in rows:
        change = row.changes["pretrained"]
        before, after = row.scores["base"], row.scores["pretrained"]
        assert before.correct is not None
        assert after.correct is not None
        assert change.gained is not None
        assert change.lost is not None
        assert change.gained - change.lost == after.correct - before.correct
        assert change.difference == pytest.approx(100 * (after.value - before.value))


def test_a_model_evaluated_on_other_questions_is_not_paired(work: Path) -> None:
    path = work / "results" / "pretrained" / "samples-medqa-letter.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    write_manifest(path.parent, kind="results", config={}, inputs={}, counts={})
    notes = Notes()
    change = task_rows(read_results(work / "results", [], notes), notes)[0].changes["pretrained"]
    assert change.p_value is None
    assert change.overlap is True


def test_a_question_counts_as_its_mean_over_seeds(work: Path) -> None:
    path = work / "results" / "pretrained" / "samples-medqa-letter-seed432.jsonl"
    lines = [json.loads(line) | {"correct": False} for line in path.read_text().splitlines()]
    path.write_text("\n".join(map(json.dumps, lines)))
    write_manifest(path.parent, kind="results", config={}, inputs={}, counts={})
    notes = Notes()
    (row, *_) = task_rows(read_results(work / "results", [], notes), notes)
    change, before = row.changes["pretrained"], row.scores["base"]
    assert change.lost == before.correct  # all, as none is right with both seeds any more
    assert change.gained > 0
    assert change.paired is not None
    assert change.paired[1] < 0


def test_models_asked_from_other_files_are_not_paired(work: Path) -> None:
    for label, digest in (("base", "aa"), ("pretrained", "bb")):
        path = work / "results" / label / "results.json"
        content = json.loads(path.read_text())
        content["tasks"][0]["file_sha256"] = {"medqa.jsonl": digest, "train.jsonl": "cc"}
        path.write_text(json.dumps(content))
        write_manifest(path.parent, kind="results", config={}, inputs={}, counts={})
    notes = Notes()
    models = read_results(work / "results", [], notes)
    rows = task_rows(models, notes)
    assert [(row.task, row.protocol, list(row.scores)) for row in rows] == [
        ("medqa", "letter", ["base"]),
        ("medqa", "letter", ["pretrained"]),
        ("medqa", "answer", ["base", "pretrained"]),
        ("pubmedqa", "letter", ["base", "pretrained"]),
    ]
    (note,) = notes.found
    assert note.text == (
        "a comparison of base with pretrained on medqa, letter: "
        "they were asked from other files (medqa.jsonl)"
    )
    first = question_sets(rows, models, 1, notes)[0]["questions"][0]
    assert list(first["answers"]) == ["base"]


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 5), (9, 1), (30, 12)])
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    expected = binomtest(min(gained, lost), gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("overlap", "p_value", "verdict", "is_evidence"),
    [
        (True, 0.4, "inside the intervals", False),
        (True, None, "inside the intervals", False),
        (True, 0.01, "intervals overlap, paired test finds a difference", True),
        (False, 0.001, "outside the intervals", True),
        (False, None, "outside the intervals", True),
        (False, 0.2, "outside the intervals, but not in the paired test", False),
        (None, None, "no interval, so no judgement", False),
    ],
)
def test_verdicts(overlap: bool | None, p_value: float | None, verdict: str, is_evidence: bool) -> None:
    change = Change(difference=3.0, overlap=overlap, p_value=p_value)
    assert change.verdict == verdict
    assert change.is_evidence is is_evidence


def test_perplexities_medical_first(work: Path) -> None:
    rows = perplexity_rows(read_results(work / "results", [], Notes()))
    assert [row.source for row in rows] == ["abstracts", "articles", "guidelines_markdown", "essays"]
    assert rows[0].changes["pretrained"].difference == pytest.approx(-32.97, abs=0.01)
    assert rows[0].changes["pretrained"].verdict == "outside the intervals"
    assert rows[-1].changes["pretrained"].verdict == "inside the intervals"
    assert pooled(rows[-1:], "base").value == pytest.approx(rows[-1].scores["base"].value)


def score(*documents: tuple[float, int]) -> Score:
    tokens = sum(size for _, size in documents)
    value = math.exp(sum(loss for loss, _ in documents) / tokens)
    return Score(value=value, bounds=(value / 2, value * 2), count=tokens, documents=documents)


def test_perplexities_of_the_same_documents_are_paired() -> None:
    before = score((300.0, 100), (500.0, 100), (640.0, 200))
    after = score((290.0, 100), (485.0, 100), (625.0, 200))
    change = compare_perplexities(before, after)
    assert change.overlap is True
    assert change.interval is not None
    assert change.interval[0] <= change.difference <= change.interval[1] < 0
    assert change.interval[0] >= 100 * (math.exp(-0.15) - 1) - 1e-9  # no document gained more
    assert change.verdict == "beyond chance"


def test_perplexities_that_were_measured_otherwise_are_not_compared(work: Path) -> None:
    models = read_results(work / "results", [], Notes())
    for model, digest in zip(models, ("aaaa1111", "bbbb2222"), strict=True):
        model.content["perplexity"][0]["protocol_hash"] = digest
    rows = {row.source: row for row in perplexity_rows(models)}
    other, alike = rows["articles"], rows["essays"]
    assert list(alike.changes) == ["pretrained"]
    assert other.changes == {}
    assert other.hashes == {"base": "aaaa1111", "pretrained": "bbbb2222"}


def test_other_documents_are_not_paired() -> None:
    change = compare_perplexities(score((300.0, 100), (500.0, 100)), score((300.0, 101), (400.0, 100)))
    assert change.interval is None
    assert change.verdict == "inside the intervals"


def test_a_damaged_folder_is_one_note(work: Path) -> None:
    (work / "results" / "base" / "results.json").write_text("{")
    notes = Notes()
    models = read_results(work / "results", ["base", "pretrained", "finetuned"], notes)
    assert [model.label for model in models] == ["pretrained"]
    assert [note.damaged for note in notes.found] == [True, False]
    assert "results.json" in notes.found[0].text
    assert "'finetuned' was not evaluated" in notes.found[1].text


def test_a_whole_file_of_another_form_is_one_note(work: Path) -> None:
    folder = work / "results" / "base"
    (folder / "results.json").write_text(json.dumps({"tasks": [{"task": "medqa", "protocol": "letter"}]}))
    write_manifest(folder, kind="results", config={}, inputs={}, counts={})
    notes = Notes()
    assert [model.label for model in read_results(work / "results", [], notes)] == ["pretrained"]
    assert "not of the expected form (no 'accuracy')" in notes.found[0].text


def test_questions_are_an_even_selection_of_the_same_ids(work: Path) -> None:
    notes = Notes()
    models = read_results(work / "results", [], notes)
    sets = question_sets(task_rows(models, notes), models, 7, notes)
    assert [len(one["questions"]) for one in sets] == [7, 7, 7]
    assert sets[0]["total"] == 60
    for question in sets[0]["questions"]:
        assert set(question["answers"]) == {"base", "pretrained"}
        assert "prompt" not in question["answers"]["pretrained"]  # the same as the first model's


def test_prompts_are_shown_as_they_were(work: Path) -> None:
    notes = Notes()
    models = read_results(work / "results", [], notes)
    sets = question_sets(task_rows(models, notes), models, 1, notes)
    assert sets[0]["questions"][0]["prompt"] == "Question: 0\n\nOptions:\nA. Amoxicillin\nThe answer is:"


def test_long_texts_lose_their_middle(work: Path) -> None:
    path = work / "results" / "base" / "samples-pubmedqa-letter.jsonl"
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    samples[0]["context"] = "a" * 3000 + "b" * 3000
    path.write_text("\n".join(map(json.dumps, samples)))
    write_manifest(path.parent, kind="results", config={}, inputs={}, counts={})
    notes = Notes()
    models = read_results(work / "results", [], notes)
    context = question_sets(task_rows(models, notes), models, 1, notes)[2]["questions"][0]["context"]
    assert context == "a" * 2000 + "\n[... 2,000 characters left out ...]\n" + "b" * 2000


def test_even_selections() -> None:
    assert evenly(5, 10) == {0, 1, 2, 3, 4}
    assert evenly(10, 3) == {0, 3, 6}
    assert evenly(10, 0) == set()


@pytest.mark.parametrize(
    ("task", "group", "questions", "chance", "column"),
    [
        ("medqa", None, 1273, 0.25, "MedQA (4 options)"),
        ("medqa_5", None, 1273, 0.2, "MedQA (5 options)"),
        ("pubmedqa", None, 500, 1 / 3, "PubMedQA"),
        ("mmlu", "medical-9", 1871, 0.25, "MMLU-Medical"),
        ("medqa", None, 60, 0.25, None),  # the demo's own questions
        ("mmlu", "medical-6", 1089, 0.25, None),
        ("anatomy", None, 500, 0.25, None),
    ],
)
def test_published_figures_only_where_the_questions_may_be_the_same(
    task: str, group: str | None, questions: int, chance: float, column: str | None
) -> None:
    found = quoted(task, group, questions, chance)
    assert {one.column for one in found} == ({column} if column else set())
