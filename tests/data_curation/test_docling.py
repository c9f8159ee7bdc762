"""The reader `docling`: its documents become ours, and what is missing is named. Its models are not run."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_curation.clean import clean, normalise
from data_curation.readers import BadRecord, RawDocument, docling, read_source
from meditron.config import CleanConfig
from meditron.errors import ConfigError, EnvironmentMissingError


def write_file(tmp_path: Path) -> Path:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.4")
    return path


def read(tmp_path: Path, **options: object) -> RawDocument | BadRecord:
    (record,) = read_source(write_file(tmp_path), "docling", options)
    return record


def test_without_the_library_the_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docling.importlib.util, "find_spec", lambda name: None)
    docling.load_converter.cache_clear()
    with pytest.raises(EnvironmentMissingError, match=r"pip install 'meditron\[docling\]'"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"), [("seconds", 0), ("ocr", "maybe"), ("artifacts_path", "/no/such/folder")]
)
def test_an_option_that_is_wrong_is_named(tmp_path: Path, option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"options of reader docling: {option}"):
        read(tmp_path, **{option: value})


@pytest.fixture
def needs_docling() -> None:
    pytest.importorskip("docling", reason="the extra `docling` is not installed")


@pytest.mark.usefixtures("needs_docling")
@pytest.mark.parametrize("given", [True, False])
def test_models_that_are_missing_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    options = {"artifacts_path": str(tmp_path)} if given else {}
    docling.load_converter.cache_clear()
    with pytest.raises(EnvironmentMissingError) as caught:
        read(tmp_path, **options)
    message = str(caught.value)
    assert f"finds no models in {tmp_path if given else 'the cache of this machine'}" in message
    assert "docling-tools models download" in message
    assert "\n" not in message


@pytest.mark.usefixtures("needs_docling")
def test_a_document_keeps_headings_tables_captions_formulae_and_comparators() -> None:
    from docling_core.types.doc import DocItemLabel, DoclingDocument, TableCell, TableData
    from docling_core.types.doc.document import ContentLayer

    made = DoclingDocument(name="a")
    made.add_text(DocItemLabel.PAGE_HEADER, "Journal of Doses", content_layer=ContentLayer.FURNITURE)
    made.add_title("Metformin & HbA1c")
    made.add_heading("Methods", level=1)
    made.add_text(DocItemLabel.TEXT, "Adults with BP <140 mmHg & p_value < 0.05 took 500 mg.")
    rows = [["Group", "Dose"], ["Low|er", "5 mg"], ["High", "<10 mg"]]
    cells = [
        TableCell(
            text=text, column_header=row == 0,
            start_row_offset_idx=row, end_row_offset_idx=row + 1,
            start_col_offset_idx=column, end_col_offset_idx=column + 1,
        )
        for row, line in enumerate(rows)
        for column, text in enumerate(line)
    ]  # fmt: skip
    caption = made.add_text(DocItemLabel.CAPTION, "Table 1. Doses by group.")
    made.add_table(TableData(num_rows=3, num_cols=2, table_cells=cells), caption=caption)
    made.add_text(DocItemLabel.FORMULA, r"x = \frac{a}{b}")
    made.add_text(DocItemLabel.FORMULA, "", orig="y = c")
    made.add_picture(caption=made.add_text(DocItemLabel.CAPTION, "Figure 1. Survival."))
    document = docling.docling_document("a.pdf", made)
    assert document.title == "Metformin & HbA1c"
    text = normalise(clean(document.text, CleanConfig().rules).text)
    assert text.split("\n\n") == [
        "# Metformin & HbA1c",
        "## Methods",
        "Adults with BP <140 mmHg & p_value < 0.05 took 500 mg.",
        "Table 1. Doses by group.",
        "| Group | Dose |\n| - | - |\n| Low\\|er | 5 mg |\n| High | <10 mg |",
        r"$$x = \frac{a}{b}$$",
        "[formula]",
        "Figure 1. Survival.",
    ]


@pytest.mark.usefixtures("needs_docling")
def test_a_heading_that_comes_first_is_the_title() -> None:
    from docling_core.types.doc import DocItemLabel, DoclingDocument

    made = DoclingDocument(name="a")
    made.add_heading("Metformin", level=1)
    made.add_text(DocItemLabel.TEXT, "It helps.")
    assert docling.docling_document("a.pdf", made).title == "Metformin"
    other = DoclingDocument(name="a")
    other.add_text(DocItemLabel.TEXT, "It helps.")
    assert docling.docling_document("a.pdf", other).title == ""


@pytest.mark.usefixtures("needs_docling")
@pytest.mark.parametrize(
    ("status", "messages", "reason"),
    [
        ("FAILURE", ["page 1:\nbroken"], "docling cannot read it (page 1: broken)"),
        ("FAILURE", [], "docling cannot read it (failure)"),
        ("PARTIAL_SUCCESS", ["timeout"], "docling cannot read it (it has read a part only, in 5 s: timeout)"),
        ("", [], "docling cannot read it (models are ill)"),
    ],
)
def test_a_file_that_fails_is_a_bad_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, messages: list[str], reason: str
) -> None:
    from docling.datamodel.base_models import ConversionStatus

    class Converter:
        def convert(self, *_: object, **__: object) -> SimpleNamespace:
            if not status:
                raise RuntimeError("models are ill")
            errors = [SimpleNamespace(error_message=message) for message in messages]
            return SimpleNamespace(status=ConversionStatus[status], errors=errors)

    monkeypatch.setattr(docling, "load_converter", lambda *_: Converter())
    bad = read(tmp_path, seconds=5)
    assert isinstance(bad, BadRecord)
    assert bad.reason == reason
