"""PDF files: pages extracted in a process of its own, then running text put together again."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from data_curation.readers.base import BadRecord, RawDocument, read_whole
from meditron.config.check import require
from meditron.errors import EnvironmentMissingError

DEFAULT_SECONDS = 120.0
MEMORY_BYTES = 4 * 2**30
_WORKER = Path(__file__).with_name("pdf_worker.py")
_PAGE_NUMBER = re.compile(r"(?:page )?\d{1,4}(?: ?(?:/|of) ?\d{1,4})?|[ivxl]{1,6}", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_EDGE_LINES = 3
_ENDS_PARAGRAPH = re.compile(r"[.!?:;][\"')\]”’]?$")
_HEADING = re.compile(r"(?:\d+(?:\.\d+)*\.?\s+)?[A-Z][^.!?]{2,70}")
_LIST = re.compile(r"(?:[•·▪◦‣–*-]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+\S")
_HYPHENS = ("\ufffe", "\x02", "\u00ad", "-", "\u2010")


def read_pdf(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument | BadRecord]:
    """A PDF as paragraphs, without the headers, footers and page numbers that repeat on its pages.

    A file that takes longer than the option `seconds` (default 120) is given up.

    Raises:
        EnvironmentMissingError: pypdfium2 is not installed.
    """
    seconds = float(options.get("seconds", DEFAULT_SECONDS))
    require(seconds > 0, "options of reader pdf: seconds", seconds, "must be positive")
    answer = _extract(read_whole(handle), seconds)
    if "error" in answer:
        yield BadRecord(file=name, record=name, reason=str(answer["error"]))
        return
    text = running_text(answer["pages"])
    title = str(answer.get("title") or "")
    yield RawDocument(id=name, text=text, title=title, metadata={"file": name, "pages": len(answer["pages"])})


def _extract(content: bytes, seconds: float) -> dict[str, Any]:
    """What the worker makes of a file: `pages` and `title`, or `error`."""
    command = [sys.executable, str(_WORKER), str(MEMORY_BYTES)]
    try:
        run = subprocess.run(command, input=content, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {seconds:g} s to read"}
    try:
        answer: dict[str, Any] = json.loads(run.stdout)
    except ValueError:
        return {"error": f"ended the process that reads it (exit code {run.returncode})"}
    if "missing" in answer:
        raise EnvironmentMissingError(
            "curate.sources: the reader pdf needs pypdfium2; install it with: pip install 'meditron[pdf]'"
        )
    return answer


def running_text(pages: list[str]) -> str:
    """Pages as paragraphs separated by blank lines."""
    lines_of_pages = [[line.strip() for line in re.split(r"\r?\n", page) if line.strip()] for page in pages]
    repeated = _repeated_edges(lines_of_pages)
    lines = [
        line
        for page in lines_of_pages
        for position, line in enumerate(page)
        if not (_at_edge(position, page) and (_edge_key(line) in repeated or _PAGE_NUMBER.fullmatch(line)))
    ]
    words = Counter(re.findall(r"[\w-]+", " ".join(lines).lower()))
    return "\n\n".join(_paragraphs(lines, words))


def _at_edge(position: int, page: list[str]) -> bool:
    return position < _EDGE_LINES or position >= len(page) - _EDGE_LINES


def _edge_key(line: str) -> str:
    """A line without its numbers, which count pages."""
    return _DIGITS.sub("#", line)


def _repeated_edges(pages: list[list[str]]) -> set[str]:
    """Lines at the top or bottom of half of the pages, and of three at least."""
    counts = Counter(
        key
        for page in pages
        for key in {_edge_key(line) for position, line in enumerate(page) if _at_edge(position, page)}
    )
    return {key for key, count in counts.items() if count >= max(3, len(pages) / 2)}


def _paragraphs(lines: list[str], words: Counter[str]) -> Iterator[str]:
    """Join lines into paragraphs; a short line that ends a sentence ends its paragraph."""
    full = sorted(map(len, lines))[int(len(lines) * 0.75)] if lines else 0
    current = ""
    for line in lines:
        if current and (_LIST.match(line) or (_HEADING.fullmatch(line) and _ENDS_PARAGRAPH.search(current))):
            yield current
            current = ""
        current = _joined(current, line, words) if current else line
        if len(line) < 0.8 * full and _ENDS_PARAGRAPH.search(line):
            yield current
            current = ""
    if current:
        yield current


def _joined(before: str, line: str, words: Counter[str]) -> str:
    """Two lines as one; a word broken by a hyphen becomes whole where the document has it whole."""
    if not before.endswith(_HYPHENS):
        return f"{before} {line}"
    stem, hyphen = before[:-1], before[-1]
    first, second = re.search(r"[^\W\d_]*$", stem), re.match(r"[^\W\d_]*", line)
    assert first is not None, "both patterns match the empty string"
    assert second is not None, "both patterns match the empty string"
    if hyphen in ("\ufffe", "\x02", "\u00ad"):
        soft = True
    else:
        whole, parted = (first[0] + second[0]).lower(), f"{first[0]}-{second[0]}".lower()
        soft = (
            bool(first[0] and second[0][:1].islower()) and words[whole] > 0 and words[whole] >= words[parted]
        )
    return stem + line if soft else f"{stem}-{line}"
