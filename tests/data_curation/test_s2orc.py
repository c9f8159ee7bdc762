import json
from pathlib import Path
from typing import Any

import pytest

from data_curation.readers import BadRecord, RawDocument, read_source

TEXT = "Risk fell (Lee, 2001) . See Fig. 1 , p < 0.05 [95% CI 1-3]."
PARAGRAPH = {
    "text": TEXT, "section": "Results",
    "cite_spans": [{"start": 10, "end": 21, "text": "(Lee, 2001)", "ref_id": "BIBREF0"}],
    "ref_spans": [{"start": 28, "end": 34, "text": "Fig. 1", "ref_id": "FIGREF0"}], "eq_spans": [],
}  # fmt: skip
PARSE = {
    "abstract": [{"text": "Short.", "cite_spans": [], "ref_spans": []}],
    "body_text": [PARAGRAPH, {"text": "More.", "section": "Results"}],
    "bib_entries": {"BIBREF0": {"title": "Aspirin at 75 mg", "authors": [{"first": "A", "last": "Lee"}]}},
    "ref_entries": {"FIGREF0": {"text": "Survival of 40 patients. Bars: SD.", "type": "figure"}},
}
METADATA = {
    "title": "T",
    "doi": "10.1/x",
    "pubmed_id": "7",
    "pmc_id": "8",
    "year": "2017",
    "abstract": "Short.",
}
RELEASES: dict[str, dict[str, Any]] = {
    "20190928": {"paper_id": "1", "metadata": METADATA, "grobid_parse": PARSE},
    "20200705": {"paper_id": "1", "title": "T", **PARSE},
    "20210101": {"paper_id": "1", "metadata": {"title": "T"}, **PARSE},
}
EXPECTED = {
    "keep": "Risk fell (Lee, 2001). See Fig. 1, p < 0.05 [95% CI 1-3].",
    "strip": "Risk fell. See Fig. 1, p < 0.05 [95% CI 1-3].",
    "special_tokens": "Risk fell [bib_ref] Aspirin at 75 mg, Lee [/bib_ref]. See [fig_ref] Figure: Survival "
    "of 40 patients [/fig_ref], p < 0.05 [95% CI 1-3].",
}


def read(tmp_path: Path, name: str, content: str, **options: str) -> RawDocument | BadRecord:
    (tmp_path / name).write_text(content)
    (record,) = read_source(tmp_path / name, "s2orc", options)
    return record


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("mode", EXPECTED)
def test_the_releases_with_paragraphs(release: str, mode: str, tmp_path: Path) -> None:
    document = read(tmp_path, "a.json", json.dumps(RELEASES[release], indent=1), citations=mode)
    assert isinstance(document, RawDocument), document
    blocks = document.text.split("\n\n")
    assert blocks[:4] == ["# T", "## Abstract", "Short.", "## Results"]
    assert blocks[4:6] == [EXPECTED[mode], "More."]
    assert "**Figure.** Survival of 40 patients. Bars: SD." in blocks[6]


def test_identifiers_have_the_same_names_as_in_other_sources(tmp_path: Path) -> None:
    document = read(tmp_path, "a.jsonl", json.dumps(RELEASES["20190928"]))
    assert isinstance(document, RawDocument)
    assert document.metadata == {
        "file": "a.jsonl",
        "doi": "10.1/x",
        "pmid": "7",
        "pmcid": "PMC8",
        "year": "2017",
    }


def annotated() -> dict[str, Any]:
    text = f"A Title\n\nShort.\n\nResults\n{TEXT}\n\nLee A. Aspirin at 75 mg. 2001."

    def at(piece: str, **attributes: str) -> dict[str, Any]:
        start = text.index(piece)
        found: dict[str, Any] = {"start": start, "end": start + len(piece)}
        return found | ({"attributes": attributes} if attributes else {})

    annotations = {
        "title": [at("A Title")], "abstract": [at("Short.")], "sectionheader": [at("Results")],
        "paragraph": [at(TEXT)], "bibref": [at("(Lee, 2001)", ref_id="b0")],
        "bibentry": [at("Lee A. Aspirin at 75 mg. 2001.", id="b0")], "bibtitle": [at("Aspirin at 75 mg")],
        "bibauthorlastname": [{"start": text.index("Lee A."), "end": text.index("Lee A.") + 3}],
        "figure": None,
    }  # fmt: skip
    return {
        "corpusid": 5, "externalids": {"pubmed": "7", "pubmedcentral": "8", "doi": "10.1/x"},
        "content": {"text": text, "source": {"oainfo": {"license": "CCBYNC"}},
                    "annotations": {key: json.dumps(value) for key, value in annotations.items()}},
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["keep", "strip", "special_tokens"])
def test_the_form_with_annotations_by_offset(mode: str, tmp_path: Path) -> None:
    document = read(tmp_path, "a.jsonl", json.dumps(annotated()), citations=mode)
    assert isinstance(document, RawDocument), document
    expected = EXPECTED[mode].replace("[fig_ref] Figure: Survival of 40 patients [/fig_ref]", "Fig. 1 ")
    expected = expected.replace("Fig. 1  ,", "Fig. 1 ,").replace("Fig. 1, p", "Fig. 1 , p")
    assert document.text == f"# A Title\n\n## Abstract\n\nShort.\n\n## Results\n\n{expected}"
    assert document.license == "CC-BY-NC"
    assert document.metadata["pmcid"] == "PMC8"


def test_what_is_no_paper_is_named(tmp_path: Path) -> None:
    for content in (
        '{"paper_id": "1"}',
        "[1]",
        '{"body_text": [{"text": 5}]}',
        '{"content": {"text": "x", "annota',
    ):
        record = read(tmp_path, "a.jsonl", content)
        assert isinstance(record, BadRecord)
        assert "is no S2ORC record" in record.reason
