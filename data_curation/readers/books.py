"""Plain text: files as they are, Project Gutenberg's books, and WikiText."""

import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from data_curation.readers.base import RawDocument, read_whole
from meditron.config.check import require

_START = re.compile(r"^\s*\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG.*$", re.I | re.M)
_END = re.compile(
    r"^\s*(?:\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG|End of (?:the )?Project Gutenberg).*$", re.I | re.M
)
_ENCODING = re.compile(rb"^Character set encoding:\s*([\w-]+)", re.I | re.M)
_TITLE = re.compile(r"^Title:\s*(.+)$", re.M)
_CREDIT = re.compile(r"\A(?:\s*(?:Produced by|E-text prepared by|Transcribed)[^\n]*(?:\n[^\n]+)*)+\n", re.I)
_PARAGRAPHS = re.compile(r"\n(?:[^\S\n]*\n)+")
_HEADING = re.compile(r"^ *((?:= )+)([^=\n].*?)(?: =)+ *$")
_SPACED = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (r" @([-,.])@ ", r"\1"),
        (r'" ([^"]*?) "', r'"\1"'),
        (r"([(\[$£€]) ", r"\1"),
        (r" (?=[,.;:!?%)\]](?:[\s,.;:!?%)\]\"]|$))", ""),
        (r" (?='(?:s|t|m|d|re|ve|ll)\b|n't\b)", ""),
    )
)


def read_text(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A text file as it is; the option `encoding` names another one than UTF-8."""
    encoding = str(options.get("encoding", "utf-8-sig"))
    try:
        text = read_whole(handle).decode(encoding)
    except LookupError:
        require(False, "options of reader text: encoding", encoding, "is no encoding that Python knows")
    yield RawDocument(id=name, text=text, title=_first_line(text), metadata={"file": name})


def _first_line(text: str) -> str:
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), "")


def read_gutenberg(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A book of Project Gutenberg without its licence, each paragraph on one line.

    Verse and tables, whose lines are indented, stay as they are.
    """
    content = read_whole(handle)
    declared = _ENCODING.search(content[:20_000])
    text = _decoded(content, declared[1].decode("ascii") if declared else "utf-8")
    text = text.replace("\r\n", "\n")
    start, end = _START.search(text), _END.search(text)
    title = _TITLE.search(text[: start.end() if start else 5_000])
    body = text[start.end() if start else 0 : end.start() if end else len(text)].strip("\n")
    body = _CREDIT.sub("", body)
    yield RawDocument(
        id=name,
        text="\n\n".join(map(_unwrapped, _PARAGRAPHS.split(body))).strip(),
        title=title[1].strip() if title else "",
        metadata={"file": name},
    )


def _decoded(content: bytes, declared: str) -> str:
    for encoding in ("utf-8-sig", declared):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("utf-8")  # raises, naming the place


def _unwrapped(paragraph: str) -> str:
    lines = paragraph.split("\n")
    if any(line.startswith((" ", "\t")) for line in lines):
        return paragraph
    return " ".join(line.strip() for line in lines)


def read_wikitext(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """The articles of a WikiText file, headings as markdown and the tokenisation undone.

    Words that the data set replaced by `<unk>` stay so: they cannot be known.
    """
    title, number = "", 0
    lines: list[str] = []
    for line in read_whole(handle).decode("utf-8-sig").splitlines():
        heading = _HEADING.match(line)
        if heading and heading[1].count("=") == 1:
            if any(line.strip() for line in lines):
                yield _article(name, number, title, lines)
            title, lines, number = heading[2].strip(), [], number + 1
        lines.append(f"{'#' * heading[1].count('=')} {heading[2].strip()}\n" if heading else line)
    if any(line.strip() for line in lines):
        yield _article(name, number, title, lines)


def _article(name: str, number: int, title: str, lines: list[str]) -> RawDocument:
    text = "\n\n".join(detokenised(line.strip()) for line in lines if line.strip())
    return RawDocument(id=f"{name}:{number}", text=text, title=title, metadata={"file": name})


def detokenised(text: str) -> str:
    """WikiText's spaced tokens as written English: `1 @.@ 5 kg ( 3 lb ) .` -> `1.5 kg (3 lb).`"""
    for pattern, written in _SPACED:
        text = pattern.sub(written, text)
    return text
