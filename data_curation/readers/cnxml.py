"""OpenStax textbooks: one module of CNXML a document."""

from collections.abc import Iterator, Mapping
from typing import IO, Any

from lxml import etree

from data_curation.readers.base import RawDocument, parse_xml, read_whole
from data_curation.readers.markup import Markup
from data_curation.readers.maths import name_of


def read_cnxml(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A module: title, content and glossary."""
    root = parse_xml(read_whole(handle))
    markup = Markup()
    children = {name_of(child): child for child in root}
    title = markup.inline(children["title"]) if "title" in children else ""
    parts = list(markup.blocks(children["content"])) if "content" in children else []
    if "glossary" in children:
        parts += _glossary(children["glossary"], markup)
    yield RawDocument(
        id=name.removesuffix("/index.cnxml").removesuffix(".cnxml"),
        text="\n\n".join([f"# {title}", *parts] if title and parts else parts),
        title=title,
        metadata={"file": name},
    )


def _glossary(glossary: etree._Element, markup: Markup) -> Iterator[str]:
    definitions = list(markup.blocks(glossary))
    if definitions:
        yield "## Key Terms"
        yield "\n".join(definitions)
