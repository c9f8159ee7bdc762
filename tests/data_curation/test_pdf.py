from collections.abc import Sequence
from pathlib import Path

import pytest

from data_curation.readers import BadRecord, RawDocument, pdf, read_source
from meditron.errors import EnvironmentMissingError

BODIES = [
    "Patients with HbA1c >7% and BP <140 mmHg were given beta-\nblockers; the cardio-",
    "vascular risk fell by 13% (95% CI 1-3).\nIL-\n6 was low.",
    "Nobody died, and the trial was stopped.\nIts authors ask for another one of the drug.",
    "A cardiovascular beta-blocker is cheap.\nSo is exercise.",
]
PAGES = [f"Journal of Doses 2020 vol. {n}\n{body}\n{n}" for n, body in enumerate(BODIES, start=1)]


def test_running_text_is_put_together_and_page_furniture_left_out() -> None:
    text = pdf.running_text(PAGES)
    assert "Journal of Doses" not in text
    assert (
        "HbA1c >7% and BP <140 mmHg were given beta-blockers; the cardiovascular risk fell by 13% (95% CI"
        in text
    )
    assert "IL-6 was low." in text
    assert not text.endswith("5")


def test_a_soft_hyphen_joins_and_lists_begin_lines() -> None:
    text = pdf.running_text(
        ["The hyper\ufffe\ntension clinic gives this advice to all:\n• Take 5 mg.\n• Not more."]
    )
    assert text == "The hypertension clinic gives this advice to all:\n\n• Take 5 mg.\n\n• Not more."


def make_pdf(lines: Sequence[str]) -> bytes:
    """A PDF of one page that shows lines."""
    shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
    stream = f"BT /F1 12 Tf 50 700 Td {shown} ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(body)
    return body + b"xref\n0 6\n0000000000 65535 f \n" + table + (
        b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start
    )  # fmt: skip


def read(tmp_path: Path, content: bytes, **options: float) -> RawDocument | BadRecord:
    (tmp_path / "a.pdf").write_bytes(content)
    (record,) = read_source(tmp_path / "a.pdf", "pdf", options)
    return record


def test_a_file_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    document = read(tmp_path, make_pdf(["Keep BP <140 mmHg and HbA1c >7%", "in all adults."]))
    assert isinstance(document, RawDocument), document
    assert document.text == "Keep BP <140 mmHg and HbA1c >7% in all adults."
    assert document.metadata["pages"] == 1


def test_what_is_no_pdf_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    bad = read(tmp_path, b"%PDF-1.4 cut")
    assert isinstance(bad, BadRecord)
    assert "no readable PDF" in bad.reason


def test_a_file_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(pdf, "_WORKER", worker)
    bad = read(tmp_path, make_pdf(["x"]), seconds=0.5)
    assert isinstance(bad, BadRecord)
    assert bad.reason == "took longer than 0.5 s to read"


def test_a_file_that_crashes_the_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os; os.abort()")
    monkeypatch.setattr(pdf, "_WORKER", worker)
    bad = read(tmp_path, make_pdf(["x"]))
    assert isinstance(bad, BadRecord)
    assert "ended the process that reads it" in bad.reason


def test_without_the_library_the_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text('print(\'{"missing": "pypdfium2"}\')')
    monkeypatch.setattr(pdf, "_WORKER", worker)
    with pytest.raises(EnvironmentMissingError, match=r"pip install 'meditron\[pdf\]'"):
        read(tmp_path, make_pdf(["x"]))
