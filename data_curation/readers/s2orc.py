"""S2ORC: the full texts of Semantic Scholar, in its released forms.

The releases of 2019 and 2020 and the output of its own converter (2021) give paragraphs with spans of
references; the datasets of the Semantic Scholar API give one text with annotations by offset.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

from data_curation.readers.base import BadRecord, RawDocument, read_whole
from data_curation.readers.citations import Citations, first_clause, shortened
from data_curation.readers.licenses import license_name
from data_curation.readers.records import lines_of

_PARSES = ("grobid_parse", "latex_parse", "pdf_parse")
_IDENTIFIERS = {
    "doi": ("doi", "DOI"),
    "pmid": ("pubmed_id", "pubmed", "PubMed", "pmid"),
    "pmcid": ("pmc_id", "pubmedcentral", "PubMedCentral", "pmcid"),
}


class Span(NamedTuple):
    """A stretch of text that has a meaning."""

    start: int
    end: int
    kind: str
    target: str


def read_s2orc(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument | BadRecord]:
    """Papers, one a file (`.json`) or one a line (`.jsonl`).

    The option `citations` is `keep` (default), `strip` or `special_tokens`.
    """
    mode = str(options.get("citations", "keep"))
    records = [read_whole(handle)] if name.endswith(".json") else lines_of(handle)
    for number, line in enumerate(records, start=1):
        if not line.strip():
            continue
        try:
            yield _document(name, json.loads(line), mode)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"is no S2ORC record ({type(error).__name__}: {error})"
            yield BadRecord(file=name, record=f"line {number}", reason=reason)


def _document(name: str, paper: dict[str, Any], mode: str) -> RawDocument:
    annotated = paper.get("content") or paper.get("body")
    if isinstance(annotated, dict) and "annotations" in annotated:
        title, parts = _annotated(paper, annotated, mode)
    else:
        title, parts = _paragraphs(paper, mode)
    metadata = _metadata(paper)
    return RawDocument(
        id=str(paper.get("corpusid") or paper.get("paper_id") or name),
        text="\n\n".join([f"# {title}", *parts] if title and parts else parts),
        title=title,
        license=_license(str(_open_access(paper).get("license") or "")),
        metadata={"file": name, **metadata},
    )


def _license(code: str) -> str:
    """`CCBY`, `CCBYNC` and the like under the name that other sources give it."""
    parts = re.fullmatch(r"CC(BY|0)(NC)?(SA|ND)?", code.upper())
    if parts is None:
        return license_name(code)
    return "CC0-1.0" if parts[1] == "0" else "-".join(["CC", *filter(None, parts.groups())])


def _open_access(paper: dict[str, Any]) -> dict[str, Any]:
    content = paper.get("content") or {}
    found = paper.get("openaccessinfo") or (content.get("source") or {}).get("oainfo") or {}
    return found if isinstance(found, dict) else {}


def _metadata(paper: dict[str, Any]) -> dict[str, str]:
    own = paper.get("metadata") or {}
    places = (paper.get("externalids") or {}, _open_access(paper).get("externalids") or {}, own)
    found = {}
    for key, names in _IDENTIFIERS.items():
        values = (str(place.get(name) or "") for place in places for name in names)
        value = next(filter(None, values), "")
        if value:
            found[key] = f"PMC{value}" if key == "pmcid" and value.isdigit() else value
    for key in ("journal", "year"):
        if own.get(key):
            found[key] = str(own[key])
    return found


def _paragraphs(paper: dict[str, Any], mode: str) -> tuple[str, list[str]]:
    """Title and blocks of the releases that give paragraphs."""
    metadata = paper.get("metadata") or {}
    parse = next((paper[key] for key in _PARSES if paper.get(key)), paper)
    if "body_text" not in parse:
        raise KeyError("body_text")
    floats = parse.get("ref_entries") or {}
    citations = Citations(
        mode=mode,
        works={key: _work(entry) for key, entry in (parse.get("bib_entries") or {}).items()},
        floats={key: _float(key, entry) for key, entry in floats.items()},
    )
    abstract = parse.get("abstract") or metadata.get("abstract") or []
    if isinstance(abstract, str):
        abstract = [{"text": abstract}]
    parts = ["## Abstract", *(_paragraph(item, citations) for item in abstract)] if abstract else []
    section = ""
    for item in parse["body_text"]:
        if (item.get("section") or "") != section:
            section = item.get("section") or ""
            parts += [f"## {section}"] if section else []
        parts.append(_paragraph(item, citations))
    parts += [citations.wrap(*_caption(key, entry)) for key, entry in floats.items()]
    return str(paper.get("title") or metadata.get("title") or ""), [part for part in parts if part.strip()]


def _paragraph(item: dict[str, Any], citations: Citations) -> str:
    spans = [
        Span(span["start"], span["end"], kind, str(span.get("ref_id") or ""))
        for kind in ("cite", "ref", "eq")
        for span in item.get(f"{kind}_spans") or []
    ]
    return _marked(item["text"], 0, len(item["text"]), spans, citations)


def _marked(text: str, start: int, end: int, spans: list[Span], citations: Citations) -> str:
    """A stretch of text with its references as the mode wants them, on one line."""
    pieces, position = [], start
    for span in sorted(spans):
        if span.start < position or span.end > end:
            continue
        pieces.append(text[position : span.start])
        inner = text[span.start : span.end]
        if span.kind == "cite":
            pieces.append(citations.work(span.target, inner))
        elif span.kind == "ref":
            pieces.append(citations.float(span.target, inner))
        else:
            pieces.append(citations.wrap("formula", inner))
        position = span.end
        # GROBID leaves a space between a reference and the full stop after it.
        if text[position : position + 1] == " " and text[position + 1 : position + 2] in ".,;:)]":
            position += 1
    pieces.append(text[position:end])
    return citations.finish(" ".join("".join(pieces).split()))


def _work(entry: dict[str, Any]) -> str:
    authors = entry.get("authors") or []
    last = f", {authors[0].get('last', '')}" if authors else ""
    return shortened(entry["title"]) + last if entry.get("title") else ""


def _float(key: str, entry: dict[str, Any]) -> str:
    _, caption = _caption(key, entry)
    return first_clause(caption.replace(".**", ":").replace("**", ""))


def _caption(key: str, entry: dict[str, Any]) -> tuple[str, str]:
    """The token's name of a figure or table, and its caption under a name."""
    kind = "table" if key.startswith("TAB") else "fig"
    text = " ".join(str(entry.get("text") or "").split())
    named = text[:3].lower() in ("fig", "tab")
    return kind, text if named or not text else f"**{'Table' if kind == 'table' else 'Figure'}.** {text}"


def _annotated(paper: dict[str, Any], content: dict[str, Any], mode: str) -> tuple[str, list[str]]:
    """Title and blocks of the form that gives one text with annotations by offset."""
    text = content["text"] or ""
    found = {key: _offsets(value) for key, value in (content.get("annotations") or {}).items()}
    bibliography = paper.get("bibliography") or content
    works = _annotated_works(bibliography)
    floats = {
        str(item.get("attributes", {}).get("id", "")): first_clause(text[item["start"] : item["end"]])
        for kind in ("figure", "table")
        for item in found.get(kind, [])
    }
    citations = Citations(mode=mode, works=works, floats=floats)
    spans = [
        Span(int(item["start"]), int(item["end"]), kind, str(item.get("attributes", {}).get("ref_id", "")))
        for key, kind in (("bibref", "cite"), ("figureref", "ref"), ("tableref", "ref"), ("formula", "eq"))
        for item in found.get(key, [])
    ]
    blocks = sorted(
        (int(item["start"]), int(item["end"]), prefix)
        for key, prefix in (("sectionheader", "## "), ("paragraph", ""), ("abstract", ""))
        for item in found.get(key, [])
    )
    parts, last = [], 0
    for start, end, prefix in blocks:
        if start >= last:  # an abstract may hold paragraphs of its own
            parts.append(
                prefix + _marked(text, start, end, [s for s in spans if start <= s.start < end], citations)
            )
            last = end
    if found.get("abstract"):
        parts.insert(0, "## Abstract")
    titles = [text[int(item["start"]) : int(item["end"])] for item in found.get("title", [])]
    title = str(paper.get("title") or next(iter(titles), ""))
    return " ".join(title.split()), [part for part in parts if part.strip("# ")]


def _offsets(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - JSON is any value
    """Annotations, which the release writes as JSON inside JSON."""
    loaded = json.loads(value) if isinstance(value, str) else value
    return [item for item in loaded or [] if "start" in item and "end" in item]


def _annotated_works(content: dict[str, Any]) -> dict[str, str]:
    """Id of each bibliography entry to title and first author, where the text says them."""
    text = content.get("text") or ""
    annotations = content.get("annotations") or {}
    entries, titles, names = (
        _offsets(annotations.get(key)) for key in ("bibentry", "bibtitle", "bibauthorlastname")
    )
    works = {}
    for entry in entries:
        inside = [
            next((text[int(i["start"]) : int(i["end"])] for i in items if _within(i, entry)), "")
            for items in (titles, names)
        ]
        key = str(entry.get("attributes", {}).get("id", ""))
        if key and inside[0]:
            works[key] = shortened(inside[0]) + (f", {inside[1]}" if inside[1] else "")
    return works


def _within(item: dict[str, Any], outer: dict[str, Any]) -> bool:
    return bool(int(outer["start"]) <= int(item["start"]) < int(outer["end"]))
