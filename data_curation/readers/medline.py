"""MEDLINE and PubMed XML, as the National Library of Medicine releases it."""

import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from lxml import etree

from data_curation.readers.base import (
    MAX_DOCUMENT_BYTES,
    BadRecord,
    BadXMLError,
    RawDocument,
    TooLargeError,
    check_entities,
    parse_xml,
)
from data_curation.readers.markup import Markup

_BLOCK_BYTES = 2**20
_OPENING = re.compile(rb"<(PubmedArticle|PubmedBookArticle)(?=[\s>])")
_PMID = re.compile(rb"<PMID[^>]*>(\d+)<")
_ENCODING = re.compile(rb"^\s*<\?xml[^>]*encoding=[\"']([\w-]+)")
_IDENTIFIERS = {"pmc": "pmcid", "doi": "doi"}
_MARKUP = Markup()


def read_medline(
    name: str, handle: IO[bytes], options: Mapping[str, Any]
) -> Iterator[RawDocument | BadRecord]:
    """Articles of a PubMed file; a broken one costs only itself, as each is cut out and parsed alone.

    Records without an abstract come without text. Labels of structured abstracts are kept.
    """
    number = 0
    for number, record in enumerate(_records(handle), start=1):
        try:
            yield _document(parse_xml(record))
        except BadXMLError as error:
            found = _PMID.search(record)
            where = f"PMID {found[1].decode()}" if found else f"record {number}"
            yield BadRecord(file=name, record=where, reason=" ".join(str(error).split()))
    if number == 0:
        raise BadXMLError("holds no PubmedArticle")


def _records(handle: IO[bytes]) -> Iterator[bytes]:
    """Each article's bytes, its tags included; a last one that is cut comes as it is."""
    buffer = handle.read(_BLOCK_BYTES)
    check_entities(buffer)
    encoding = _ENCODING.match(buffer)
    prolog = b'<?xml version="1.0" encoding="%b"?>' % encoding[1] if encoding else b""
    while True:
        opening = _OPENING.search(buffer)
        closing = b"</%b>" % opening[1] if opening else b""
        end = buffer.find(closing, opening.end()) if opening else -1
        if opening and end >= 0:
            end += len(closing)
            yield prolog + buffer[opening.start() : end]
            buffer = buffer[end:]
            continue
        if len(buffer) > MAX_DOCUMENT_BYTES:
            raise TooLargeError(f"a record is larger than {MAX_DOCUMENT_BYTES >> 20} MiB")
        block = handle.read(_BLOCK_BYTES)
        if not block:
            if opening:
                yield prolog + buffer[opening.start() :]
            return
        # Without an opening tag only the end of the buffer can hold the beginning of one.
        buffer = (buffer if opening else buffer[-32:]) + block


def _document(article: etree._Element) -> RawDocument:
    title = _line(article, ".//ArticleTitle") or _line(article, ".//BookTitle")
    sections = []
    for node in article.iterfind(".//Abstract/AbstractText"):
        label, text = node.get("Label"), _MARKUP.inline(node)
        if text:
            sections.append(f"**{label.capitalize()}:** {text}" if label else text)
    metadata = _metadata(article)
    return RawDocument(
        id=metadata["pmid"],
        text="\n\n".join([f"# {title}", *sections]) if sections else "",
        title=title,
        metadata=metadata,
    )


def _metadata(article: etree._Element) -> dict[str, Any]:
    found: dict[str, Any] = {"pmid": _line(article, ".//PMID")}
    for node in article.iterfind("./PubmedData/ArticleIdList/ArticleId"):
        key = _IDENTIFIERS.get(node.get("IdType", ""))
        if key:
            found[key] = _MARKUP.inline(node)
    found["journal"] = _line(article, ".//Journal/Title")
    found["year"] = _line(article, ".//JournalIssue/PubDate/Year")
    found["language"] = _line(article, ".//Article/Language")
    found["publication_types"] = [_MARKUP.inline(node) for node in article.iterfind(".//PublicationType")]
    found["mesh"] = [_MARKUP.inline(node) for node in article.iterfind(".//MeshHeading/DescriptorName")]
    return {key: value for key, value in found.items() if value or key == "pmid"}


def _line(article: etree._Element, path: str) -> str:
    node = article.find(path)
    return _MARKUP.inline(node) if node is not None else ""
