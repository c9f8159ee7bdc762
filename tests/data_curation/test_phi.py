"""Identifiers of people are found, what only looks like one is left alone, and the shares are measured."""

import json
import re
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_curation.curate import main
from data_curation.phi import CLASSES, detect, find, in_context, redact
from meditron.config import CurateConfig, PhiConfig, Recipe, SourceConfig
from meditron.config.recipe import resolve
from meditron.errors import ConfigError

MARK = re.compile(r"\[\[(\w+)\|(.+?)\]\]")
LINES = (Path(__file__).parent / "phi_cases.txt").read_text(encoding="utf-8").splitlines()
CASES = [(MARK.sub(r"\2", line), MARK.findall(line)) for line in LINES]
"""Texts written for this test, and what in each identifies a person; more than half identify nobody."""
MINIMUM_PRECISION, MINIMUM_RECALL = 0.98, 0.94


def found_in(text: str) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in find(text)]


def test_precision_and_recall_on_the_written_cases() -> None:
    right = wrong = missed = 0
    failures = []
    for text, wanted in CASES:
        got = found_in(text)
        right += sum(pair in wanted for pair in got)
        wrong += sum(pair not in wanted for pair in got)
        missed += sum(pair not in got for pair in wanted)
        if wanted != got:
            failures.append((text, wanted, got))
    precision, recall = right / (right + wrong), right / (right + missed)
    print(f"{len(CASES)} texts, precision {precision:.3f}, recall {recall:.3f}")
    assert precision >= MINIMUM_PRECISION, failures
    assert recall >= MINIMUM_RECALL, failures


PIECES = [
    *(text for text, _ in CASES),
    *(piece for text, _ in CASES for piece in re.split(r"(?<=[ :])", text)),
    *["\n", "\n\n", " ", "  ", "(", ".", "-", "x", "é", "İ", "ſ", "٣", "NCT", "AB12", "1", "0" * 20],
]
CASE = [str, str.upper, str.lower, str.title]


@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(CASE)), max_size=40))
def test_reading_only_the_lines_that_a_scan_finds_misses_nothing(pieces: list[tuple[str, Any]]) -> None:
    text = "".join(change(piece) for piece, change in pieces)
    found = find(text)
    with patch.object(detect, "_lines", lambda scan, text: [(0, len(text))]):
        assert found == find(text)


def test_every_class_has_cases_and_most_texts_are_traps() -> None:
    kinds = {kind for _, wanted in CASES for kind, _ in wanted}
    assert kinds == set(CLASSES)
    assert sum(not wanted for _, wanted in CASES) > len(CASES) / 2


def test_placeholders_and_context_show_nothing_of_what_was_found() -> None:
    text = "Mail a.b@x.org or c@y.org; DOB 3/4/1950, BP <140 mmHg."
    findings = find(text)
    assert redact(text, findings) == "Mail [EMAIL] or [EMAIL]; DOB [DATE], BP <140 mmHg."
    assert in_context(text, 0, findings) == "Mail [EMAIL] or [EMAIL]; DOB [DATE], BP <140 mmHg."


def recipe_with(tmp_path: Path, **phi: object) -> Recipe:
    filler = "He takes aspirin 75 mg daily and his blood pressure stayed below 140/90 mmHg for a year. "
    texts = {"a": f"{filler}Write to jane.doe@clinic.org about it.", "b": f"{filler}No one is named here."}
    lines = [json.dumps({"id": name, "text": text + filler}) for name, text in texts.items()]
    (tmp_path / "n.jsonl").write_text("\n".join(lines))
    curate = CurateConfig(
        sources={"n": SourceConfig(path="n.jsonl", reader="jsonl")},
        phi=PhiConfig(**phi),  # type: ignore[arg-type]
        validation_fraction=0.0,
    )
    return resolve(Recipe(work_dir=str(tmp_path / "work"), data_root=str(tmp_path), curate=curate))


@pytest.mark.parametrize(
    ("action", "texts", "dropped"),
    [
        ("off", ["jane.doe@clinic.org", "No one"], {}),
        ("report", ["jane.doe@clinic.org", "No one"], {}),
        ("redact", ["Write to [EMAIL] about it.", "No one"], {}),
        ("drop", ["No one"], {"identifies a person": 1}),
    ],
)
def test_each_policy(action: str, texts: list[str], dropped: dict[str, int], tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path, action=action)
    main(recipe)
    corpus = Path(str(recipe.curate.output))
    kept = [
        text for file in corpus.glob("train/*.parquet") for text in pq.read_table(file)["text"].to_pylist()
    ]
    assert len(kept) == len(texts)
    assert all(any(wanted in text for text in kept) for wanted in texts)
    content = (corpus / "stats.json").read_text()
    (source,) = json.loads(content)["sources"].values()
    assert source["dropped"] == dropped
    assert source["phi"] == (
        {"documents": 0, "found": {}} if action == "off" else {"documents": 1, "found": {"EMAIL": 1}}
    )
    assert "jane.doe" not in content


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"curate\.phi\.classes.*EMIAL"):
        main(recipe_with(tmp_path, classes=["EMIAL"]))


def test_an_identifier_at_the_border_of_an_excerpt_is_not_cut() -> None:
    text = f"jane.doe@x.org {'w' * 50} a@b.org {'w' * 50} Mr. Harold Finch was seen."
    findings = find(text)
    assert in_context(text, 1, findings).split() == [
        "[EMAIL]",
        "w" * 50,
        "[EMAIL]",
        "w" * 50,
        "Mr.",
        "[NAME]",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000 + " @ " + "9" * 300_000,
        "Mr. Finch met Mrs. Poe. " * 20_000,
        "mrn" + " " * 300_000,
        "LICENSE PLATE " * 30_000,
        "SERIAL-" * 60_000,
    ],
)
def test_long_texts_take_no_long_time(text: str) -> None:
    start = time.perf_counter()
    findings = find(text)
    for position in range(0, len(findings), 100):
        in_context(text, position, findings)
    redact(text, findings)
    assert time.perf_counter() - start < 20
