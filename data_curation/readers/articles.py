"""Readers of one document a file: JATS, HTML, markdown, MedQuAD and CNXML."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import IO, Any

from lxml import etree, html

from data_curation.readers.base import BadXMLError, RawDocument, parse_xml
from data_curation.readers.markup import blocks, inline, name_of


def read_jats(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A JATS article: title, abstract, body and appendices; the reference list is left out."""
    root = parse_xml(handle.read())
    for element in root.iter():
        if name_of(element) == "article":
            yield _jats_document(name, element)
            return
    raise BadXMLError("holds no JATS article")


def _jats_document(name: str, article: etree._Element) -> RawDocument:
    meta = _first(article, "article-meta")
    title = inline(found) if meta is not None and (found := _first(meta, "article-title")) is not None else ""
    parts = [f"# {title}"] if title else []
    for abstract in _all(meta, "abstract") if meta is not None else []:
        if abstract.get("abstract-type") in (None, "summary", "structured"):
            titled = any(name_of(child) == "title" for child in abstract)
            parts += [*([] if titled else ["## Abstract"]), *blocks(abstract, 2 if titled else 3)]
    body = next((child for child in article if name_of(child) == "body"), None)
    parts += blocks(body, 1) if body is not None else []
    for app in _all(article, "app"):
        parts += blocks(app)
    ids = (
        {node.get("pub-id-type", "id"): inline(node) for node in _all(meta, "article-id")}
        if meta is not None
        else {}
    )
    text = "\n\n".join(parts) if len(parts) > bool(title) else ""
    return RawDocument(
        id=ids.get("pmc") or ids.get("pmcid") or ids.get("doi") or name,
        text=text,
        title=title,
        license=_license(meta),
        metadata={"file": name, **ids},
    )


def _license(meta: etree._Element | None) -> str:
    found = _first(meta, "license") if meta is not None else None
    if found is None:
        return ""
    links = [
        str(value) for node in found.iter() for key, value in node.attrib.items() if str(key).endswith("href")
    ]
    return next((link for link in links if "creativecommons" in link), "") or str(
        found.get("license-type", "")
    )


def _all(element: etree._Element, name: str) -> list[etree._Element]:
    return [node for node in element.iter() if name_of(node) == name]


def _first(element: etree._Element, name: str) -> etree._Element | None:
    return next((node for node in element.iter() if name_of(node) == name), None)


def read_html(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A web page: its main element (or article, or body), without navigation, header and footer."""
    content = handle.read().decode("utf-8")
    if not content.strip():
        yield RawDocument(id=name, text="")
        return
    root = html.document_fromstring(content, parser=html.HTMLParser(remove_comments=True, huge_tree=True))
    main = next(
        (found for tag in ("main", "article", "body") if (found := root.find(f".//{tag}")) is not None), root
    )
    for node in list(main):
        if name_of(node) == "footer" or (name_of(node) == "header" and node.find(".//h1") is None):
            main.remove(node)
    parts = list(blocks(main))
    heading, page_title = root.find(".//h1"), root.find(".//title")
    named = heading if heading is not None else page_title
    title = inline(named) if named is not None else ""
    if heading is None and title:
        parts.insert(0, f"# {title}")
    yield RawDocument(id=name, text="\n\n".join(parts), title=title, metadata={"file": name})


def read_markdown(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A markdown file as it is; its first heading is the title."""
    text = handle.read().decode("utf-8")
    heading = next((line for line in text.splitlines() if line.startswith("#")), "")
    yield RawDocument(id=name, text=text, title=heading.lstrip("# ").strip(), metadata={"file": name})


def read_medquad(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A MedQuAD page: each question as a heading, its answer below."""
    root = parse_xml(handle.read())
    focus = next((inline(node) for node in _all(root, "focus")), "")
    parts = []
    for pair in _all(root, "qapair"):
        question, answer = _first(pair, "question"), _first(pair, "answer")
        if question is not None and answer is not None and inline(answer):
            lines = "".join(str(text) for text in answer.itertext()).strip().splitlines()
            parts += [f"## {inline(question)}", "\n".join(line.strip() for line in lines)]
    text = "\n\n".join([f"# {focus}", *parts]) if parts else ""
    path = PurePosixPath(name)
    yield RawDocument(
        id=f"{path.parent.name}/{path.stem}",
        text=text,
        title=focus,
        metadata={"file": name, "url": root.get("url", "")},
    )


def read_cnxml(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """An OpenStax module: title and content."""
    root = parse_xml(handle.read())
    content = next((child for child in root if name_of(child) == "content"), None)
    title = next((inline(child) for child in root if name_of(child) == "title"), "")
    parts = list(blocks(content)) if content is not None else []
    text = "\n\n".join([f"# {title}", *parts]) if parts else ""
    yield RawDocument(
        id=PurePosixPath(name).parent.name or name, text=text, title=title, metadata={"file": name}
    )
