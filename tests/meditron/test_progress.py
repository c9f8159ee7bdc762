import re

import pytest

from meditron import progress as module
from meditron.progress import format_seconds, progress


def test_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLAIN_INTERVAL_SECONDS", 0.0)
    with progress(10, "tokenizing", "documents") as task:
        task.start_at(4)
        task.advance(3, loss=2.34567)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"tokenizing:  7/10 documents \(70%\)  \S+/s  0:00 left  loss 2\.346", lines[-1])


def test_quiet_between_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(None, "reading", "documents") as task:
        for _ in range(1000):
            task.advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("reading:  1,000 documents")


def test_format_seconds() -> None:
    assert [format_seconds(s) for s in (5, 75, 4000)] == ["0:05", "1:15", "1:06:40"]
