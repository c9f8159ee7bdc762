"""Questions and answers: MedQuAD."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import IO, Any

from lxml import etree

from data_curation.readers.base import RawDocument, parse_xml, read_whole
from data_curation.readers.markup import Markup
from data_curation.readers.maths import name_of
from meditron.config.check import require_choice

_UNITS = ("pair", "page")


def read_medquad(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """Pairs of question and answer; those whose answer is withheld come without text.

    The option `unit` is `pair` (default: a document each) or `page` (one document with all pairs of
    the page). In pairs, equal answers count as duplicates whatever was asked.
    """
    unit = str(options.get("unit", "pair"))
    require_choice(unit, _UNITS, "options of reader medquad: unit")
    root = parse_xml(read_whole(handle))
    path = PurePosixPath(name)
    metadata = {"file": name, "url": root.get("url", "")}
    focus = next((Markup().inline(node) for node in root.iter() if name_of(node) == "focus"), "")
    pairs = [_pair(node) for node in root.iter() if name_of(node) == "qapair"]
    own = f"{path.parent.name}/{path.stem}"
    if unit == "page":
        blocks = [f"## {question}\n\n{answer}" for question, answer in pairs if answer]
        text = "\n\n".join([f"# {focus}", *blocks]) if blocks else ""
        yield RawDocument(id=own, text=text, title=focus, metadata=metadata)
        return
    for number, (question, answer) in enumerate(pairs, start=1):
        yield RawDocument(
            id=f"{own}-{number}",
            text=f"# {question}\n\n{answer}" if answer else "",
            title=question,
            metadata={**metadata, "focus": focus},
            same_text=answer,
        )


def _pair(node: etree._Element) -> tuple[str, str]:
    question = answer = ""
    for child in node:
        if name_of(child) == "question":
            question = Markup().inline(child)
        elif name_of(child) == "answer":
            lines = "".join(str(text) for text in child.itertext()).strip().splitlines()
            answer = "\n".join(line.strip() for line in lines)
    # The data set writes "What are the symptoms of X ?".
    return question.removesuffix(" ?") + ("?" if question.endswith(" ?") else ""), answer
