"""From the hits of all documents to what becomes of them, and the report that shows both sides."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_curation.decontaminate.benchmarks import Item
from data_curation.decontaminate.match import SHORT, Hit, Index, common_runs, judge
from data_curation.ngrams import word_hashes
from data_curation.parts import read_rows
from data_curation.plan import Chunk, Plan
from meditron.config import DecontaminateConfig
from meditron.files import atomic_write, atomic_write_json

REDACTED = "[…]"
_EXCERPT = 300


@dataclass(frozen=True)
class Benchmarks:
    """The texts that must not be in the corpus, and what documents are held against."""

    items: Sequence[Item]
    index: Index


@dataclass(kw_only=True)
class Contamination:
    """What was found."""

    dropped: list[tuple[str, int]] = field(default_factory=list)
    """Chunk name and position of each document to leave out."""
    benchmarks: dict[str, dict[str, int]] = field(default_factory=dict)
    """Benchmark to the number of its texts, of those too short to look for, and of those found."""


def find_contamination(
    plan: Plan, config: DecontaminateConfig, benchmarks: Benchmarks, parts: Path, folder: Path
) -> Contamination:
    """Judge all documents; writes `contamination.jsonl` and, to redact, `<chunk>.redact.json` to `folder`."""
    hits = {chunk.name: _load_hits(parts, chunk) for chunk in plan.chunks}
    common = common_runs((own for chunk in hits.values() for own in chunk.values()), config.max_documents)
    contamination = Contamination()
    found: Counter[int] = Counter()
    with atomic_write(folder / "contamination.jsonl") as report:
        for chunk in plan.chunks:
            verdicts = {
                position: verdict
                for position, own in hits[chunk.name].items()
                if (verdict := judge(own, benchmarks.index, common))
            }
            texts = _texts_at(parts / f"{chunk.name}.parquet", verdicts)
            for position, verdict in verdicts.items():
                found.update(verdict.keys())
                for line in _lines(texts[position], verdict, benchmarks.items, config.action):
                    report.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            if config.action == "drop":
                contamination.dropped += [(chunk.name, position) for position in verdicts]
            else:
                spans = {position: _spans(verdict) for position, verdict in verdicts.items()}
                atomic_write_json(folder / f"{chunk.name}.redact.json", spans)
    contamination.benchmarks = _account(benchmarks.items, found)
    return contamination


def _load_hits(parts: Path, chunk: Chunk) -> dict[int, list[Hit]]:
    with open(parts / f"{chunk.name}.hits.jsonl", encoding="utf-8") as handle:
        lines = map(json.loads, handle)
        return {line["document"]: [Hit(**hit) for hit in line["hits"]] for line in lines}


def _texts_at(path: Path, positions: dict[int, Any]) -> dict[int, dict[str, Any]]:
    if not positions:
        return {}
    rows = enumerate(read_rows(path, ["id", "text"]))
    return {position: row for position, row in rows if position in positions}


def _lines(
    row: dict[str, Any], verdict: dict[int, tuple[str, list[Hit]]], items: Sequence[Item], action: str
) -> Iterator[dict[str, Any]]:
    """One line for each benchmark text that a document holds."""
    for item, (rule, hits) in sorted(verdict.items()):
        start, end = min(hit.start for hit in hits), max(hit.end for hit in hits)
        yield {
            "id": row["id"],
            "source": row["id"].split("/", 1)[0],
            "benchmark": items[item].benchmark,
            "item": items[item].name,
            "rule": rule,
            "action": action,
            "document_text": row["text"][start : min(end, start + _EXCERPT)],
            "benchmark_text": items[item].text[:_EXCERPT],
        }


def _spans(verdict: dict[int, tuple[str, list[Hit]]]) -> list[tuple[int, int]]:
    """Stretches of a document to take out, apart from each other and in order."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted({(hit.start, hit.end) for _, hits in verdict.values() for hit in hits}):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def redact(text: str, spans: list[tuple[int, int]]) -> str:
    """A text with a mark in place of each span."""
    for start, end in reversed(spans):
        text = text[:start] + REDACTED + text[end:]
    return text


def _account(items: Sequence[Item], found: Counter[int]) -> dict[str, dict[str, int]]:
    figures: dict[str, dict[str, int]] = {}
    for position, item in enumerate(items):
        own = figures.setdefault(item.benchmark, {"texts": 0, "too_short": 0, "found": 0})
        own["texts"] += 1
        own["too_short"] += len(word_hashes(item.text)) < SHORT
        own["found"] += position in found
    return figures


def dropped_mask(
    contamination: Contamination, plan: Plan, bounds: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """[documents], True where a document is left out."""
    starts = {chunk.name: int(bounds[chunk.index]) for chunk in plan.chunks}
    mask = np.zeros(int(bounds[-1]), dtype=np.bool_)
    for name, position in contamination.dropped:
        mask[starts[name] + position] = True
    return mask
