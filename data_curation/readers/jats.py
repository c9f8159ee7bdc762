"""JATS articles, as PubMed Central and publishers release them."""

from collections.abc import Iterator, Mapping
from typing import IO, Any

from lxml import etree

from data_curation.readers.base import BadXMLError, RawDocument, parse_xml, read_whole
from data_curation.readers.citations import Citations, first_clause, shortened
from data_curation.readers.licenses import license_name
from data_curation.readers.markup import FIGURES, Markup
from data_curation.readers.maths import name_of

_NO_ABSTRACT = frozenset(["toc", "teaser", "graphical", "short", "web-summary", "precis", "key-points-short"])
"""Kinds of abstract that advertise the article or repeat a line of it."""
_TITLES = {
    "summary": "Author Summary",
    "synopsis": "Synopsis",
    "editor": "Editor's Summary",
    "editors-summary": "Editors' Summary",
    "patient": "Patient Summary",
    "plain-language-summary": "Plain Language Summary",
    "executive-summary": "Executive Summary",
}
_BACK = frozenset(["sec", "app-group", "app", "glossary"])
"""Back matter that belongs to the article; references, thanks and interests do not."""
_IDENTIFIERS = {"pmc": "pmcid", "pmcid": "pmcid", "pmid": "pmid", "doi": "doi"}


def read_jats(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A JATS article: title, abstracts, body, figures and tables, appendices and abbreviations.

    The option `citations` is `keep` (default), `strip` or `special_tokens`.
    """
    root = parse_xml(read_whole(handle))
    article = next((node for node in root.iter() if name_of(node) == "article"), None)
    if article is None:
        raise BadXMLError("holds no JATS article")
    mode = options.get("citations", "keep")
    yield _document(name, article, Markup(_citations(article, mode)))


def _document(name: str, article: etree._Element, markup: Markup) -> RawDocument:
    meta = _first(article, "article-meta")
    title = _title(meta, markup)
    parts = list(_abstracts(meta, markup)) if meta is not None else []
    for child in article:
        if name_of(child) in ("body", "floats-group", "floats-wrap"):
            parts += markup.blocks(child)
        elif name_of(child) == "back":
            parts += _back(child, markup)
    metadata = _metadata(article, meta, markup)
    return RawDocument(
        id=metadata.get("pmcid") or metadata.get("doi") or name,
        text="\n\n".join([f"# {title}", *parts] if title and parts else parts),
        title=title,
        license=_license(meta),
        metadata={"file": name, **metadata},
    )


def _title(meta: etree._Element | None, markup: Markup) -> str:
    group = _first(meta, "title-group") if meta is not None else None
    if group is None:
        return ""
    names = ("article-title", "subtitle")
    return ": ".join(filter(None, (markup.inline(node) for node in group if name_of(node) in names)))


def _abstracts(meta: etree._Element, markup: Markup) -> Iterator[str]:
    for abstract in meta:
        kind = abstract.get("abstract-type")
        if name_of(abstract) != "abstract" or kind in _NO_ABSTRACT:
            continue
        if not any(name_of(child) == "title" for child in abstract):
            yield f"## {_TITLES.get(kind or '', 'Abstract')}"
        yield from markup.blocks(abstract, 2)


def _back(back: etree._Element, markup: Markup) -> Iterator[str]:
    for child in back:
        if name_of(child) == "glossary" and not any(name_of(node) == "title" for node in child):
            yield "## Abbreviations"
        if name_of(child) in _BACK:
            # A section goes as a whole, so that its title counts as a heading of the article.
            yield from markup.section(child)


def _metadata(article: etree._Element, meta: etree._Element | None, markup: Markup) -> dict[str, str]:
    found = {"article_type": article.get("article-type", "")}
    journal = _first(article, "journal-title")
    found["journal"] = markup.inline(journal) if journal is not None else ""
    if meta is not None:
        for node in meta:
            key = _IDENTIFIERS.get(node.get("pub-id-type", "")) if name_of(node) == "article-id" else None
            if key:
                found[key] = markup.inline(node)
            elif name_of(node) == "pub-date" and "year" not in found:
                found["year"] = next((markup.inline(y) for y in node if name_of(y) == "year"), "")
    if found.get("pmcid", "").isdigit():
        found["pmcid"] = f"PMC{found['pmcid']}"
    return {key: value for key, value in found.items() if value}


def _license(meta: etree._Element | None) -> str:
    if meta is None:
        return ""
    found = next(meta.iter("{*}license", "{*}license-ref"), None)
    if found is None:
        found = _first(meta, "copyright-statement")
    if found is None:
        return ""
    links = [str(value) for node in found.iter() for key, value in node.attrib.items() if "href" in str(key)]
    text = "".join(str(piece) for piece in found.itertext())
    return license_name(" ".join([*links, text]))


def _citations(article: etree._Element, mode: str) -> Citations:
    """What the article's references refer to, looked up only where it is written."""
    if mode != "special_tokens":
        return Citations(mode=mode)
    plain = Markup()
    works, floats = {}, {}
    for node in article.iter():
        key = node.get("id")
        if key and name_of(node) == "ref":
            works[key] = _work(node, plain)
        elif key and (name_of(node) == "table-wrap" or name_of(node) in FIGURES):
            floats[key] = _float(node, plain)
    return Citations(mode=mode, works=works, floats=floats)


def _work(ref: etree._Element, markup: Markup) -> str:
    title = next(
        (node for key in ("article-title", "source") if (node := _first(ref, key)) is not None), None
    )
    surname = _first(ref, "surname")
    if title is None:
        return ""
    author = f", {markup.inline(surname)}" if surname is not None else ""
    return shortened(markup.inline(title)) + author


def _float(node: etree._Element, markup: Markup) -> str:
    label, caption = _first(node, "label"), _first(node, "caption")
    name = markup.inline(label).rstrip(".") if label is not None else "Figure"
    clause = first_clause(markup.inline(caption)) if caption is not None else ""
    return f"{name}: {clause}" if clause else name


def _first(element: etree._Element, name: str) -> etree._Element | None:
    return next(element.iter(f"{{*}}{name}"), None)
