"""The corpus and its tokens, by source."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.report.reading import Json, read_json, read_lines
from meditron.manifest import Manifest, read_manifest

EXAMPLES = 20
"""Quarantined records and duplicates that the page lists."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What became of one source's records."""

    name: str
    """Name in the recipe."""
    kind: str
    """medical or general."""
    read: int
    """Records read; kept + dropped + quarantined."""
    kept: int
    """Documents in the corpus."""
    train: int
    """Of these, to train on."""
    validation: int
    """Of these, held out."""
    chars: int
    """Characters of the kept documents."""
    dropped: Mapping[str, int]
    """Reason to documents."""
    quarantined: int
    """Records that could not be read."""
    licenses: Mapping[str, int]
    """Licence to documents."""
    samples: list[Json]
    """Excerpts of what was dropped, removed or found: reason, id, excerpt."""
    removed: Mapping[str, Json]
    """Cleaning rule to the passages and characters it took out."""
    survival: Json | None
    """Numbers, comparators and units through cleaning, where that was measured."""
    would_drop: Mapping[str, int]
    """Reason to documents that the published bounds of the quality rules would have dropped."""
    phi: Mapping[str, int]
    """Class of identifier to passages."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The corpus folder."""

    folder: Path
    """Where it is."""
    manifest: Manifest
    """Its manifest."""
    sources: list[Source]
    """By source, medical ones first."""
    quarantine: list[Json]
    """The first unreadable records: source, file, record, reason."""
    duplicates: list[Json]
    """The first duplicates: id, kept_id, rule."""
    steps: list[Json] = field(default_factory=list)
    """What each step of curation cost: stage, step, seconds, megabytes_per_second; none without its logs."""

    def total(self, name: str) -> int:
        """Sum of a count over the sources."""
        return sum(getattr(source, name) for source in self.sources)

    def counts(self, name: str) -> dict[str, int]:
        """Sums over the sources of `dropped`, `would_drop` or `phi`, the largest first."""
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(getattr(source, name))
        return dict(total.most_common())

    @property
    def dropped(self) -> dict[str, int]:
        """Reason to documents, over all sources."""
        return self.counts("dropped")

    @property
    def removed(self) -> dict[str, Json]:
        """Cleaning rule to passages and characters, over all sources."""
        total: dict[str, Json] = {}
        for source in self.sources:
            for rule, row in source.removed.items():
                own = total.setdefault(rule, {"passages": 0, "chars": 0, "tokens": 0})
                own["passages"] += row["passages"]
                own["chars"] += row["chars"]
                own["tokens"] += (source.survival or {"removed": {}})["removed"].get(rule, 0)
        return total

    @property
    def measured(self) -> list[Source]:
        """Sources whose clinical tokens were followed through cleaning."""
        return [source for source in self.sources if source.survival]


def read_corpus(folder: Path, throughput: Path | None = None) -> Corpus:
    """Read a corpus's account.

    Args:
        folder: the corpus.
        throughput: file in the logs of the run that made it; need not exist.

    Raises:
        ManifestError: the folder is missing, unfinished, or does not match its manifest.
        OSError, ValueError, KeyError, TypeError, AttributeError: a file is not of the expected form.
    """
    manifest = read_manifest(folder, kind="corpus")
    sources = [_source(name, row) for name, row in read_json(folder / "stats.json")["sources"].items()]
    return Corpus(
        folder=folder,
        manifest=manifest,
        sources=sorted(sources, key=lambda source: source.kind != "medical"),
        quarantine=_first_lines(folder / "quarantine.jsonl"),
        duplicates=_first_lines(folder / "duplicates.jsonl"),
        steps=list(read_json(throughput)["steps"]) if throughput and throughput.exists() else [],
    )


def _source(name: str, row: Mapping[str, Any]) -> Source:
    return Source(
        name=name,
        kind=str(row["kind"]),
        dropped=dict(row["dropped"]),
        licenses=dict(row.get("licenses") or {row["license"]: row["kept"]}),
        samples=list(row["samples"]),
        removed=dict(row.get("removed", {})),
        survival=row.get("survival"),
        would_drop=dict(row.get("would_drop", {})),
        phi=dict(row.get("phi", {}).get("found", {})),
        **{key: int(row[key]) for key in ("read", "kept", "train", "validation", "chars", "quarantined")},
    )


def _first_lines(path: Path) -> list[Json]:
    if not path.exists():
        return []
    return [record for record, _ in zip(read_lines(path), range(EXAMPLES), strict=False)]


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The tokenized corpus."""

    folder: Path
    """Where it is."""
    manifest: Manifest
    """Its manifest."""
    sources: dict[str, Json]
    """Source to kind, documents and tokens of each split, bytes."""
    vocab_size: int
    """Ids of the tokenizer."""

    def total(self, key: str) -> int:
        """Sum of a count over the sources."""
        return sum(int(row[key]) for row in self.sources.values())


def read_shards(folder: Path) -> Shards:
    """Read a token table.

    Raises:
        ManifestError: the folder is missing, unfinished, or does not match its manifest.
        OSError, ValueError, KeyError, TypeError, AttributeError: tokens.json is not of the expected form.
    """
    manifest = read_manifest(folder, kind="shards")
    table = read_json(folder / "tokens.json")
    sources = {name: _token_row(row) for name, row in table["sources"].items()}
    ordered = dict(sorted(sources.items(), key=lambda item: item[1]["kind"] != "medical"))
    return Shards(folder=folder, manifest=manifest, sources=ordered, vocab_size=int(table["vocab_size"]))


def _token_row(row: Mapping[str, Any]) -> Json:
    numbers = ("train_documents", "train_tokens", "validation_documents", "validation_tokens", "bytes")
    return {"kind": str(row["kind"]), **{key: int(row[key]) for key in numbers}}
