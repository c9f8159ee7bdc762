"""First pass, one task a chunk: read, normalise, filter, and set aside with a hash.

Leaves in the parts folder, for each chunk:
  <chunk>.parquet           the documents that passed, in reading order
  <chunk>.json              its ledger
  <chunk>.quarantine.jsonl  its unreadable records
  <chunk>.signatures        their MinHash signatures, where near-duplicates are looked for
  <chunk>.hits.jsonl        which documents share words with benchmarks, where these are looked for
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data_curation.clean import clean, normalise
from data_curation.decontaminate.match import Index
from data_curation.dedup.exact import document_key
from data_curation.dedup.near import signature
from data_curation.dedup.work import work_key
from data_curation.executor import Report
from data_curation.filters import DocumentFilter, build_filters, watched_filters
from data_curation.ledger import Account, Ledger
from data_curation.parts import PART_SCHEMA, PartWriter
from data_curation.phi import CLASSES, Finding, in_context, redact
from data_curation.phi.names import find_with_names, load_analyzer
from data_curation.plan import Chunk, Plan
from data_curation.readers import BadRecord, RawDocument, read_source
from data_curation.timing import timed
from meditron.config import CleanConfig, CurateConfig, PhiConfig
from meditron.config.check import suggest
from meditron.errors import ConfigError
from meditron.files import atomic_write, atomic_write_json, disk_errors, sha256_file

MEGABYTE = 2**20


class ReadChunk(PipelineStep):  # type: ignore[misc]
    """Reads the files of the task's chunk; what cannot be read goes to quarantine.

    Args:
        plan: all chunks.
        folder: parts folder.
        reports: folder that progress is reported under.
        account: shared with the later steps of the same task.
    """

    name = "read chunk"
    type = "reader"

    def __init__(self, plan: Plan, folder: Path, reports: Path, account: Account) -> None:
        super().__init__()
        self._plan, self._folder, self._reports, self._account = plan, folder, reports, account

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ANN401
        """Yield the chunk's documents, with `title` and `license` in their metadata."""
        chunk = self._plan.chunks[rank]
        ledger = self._account.open(chunk.source)
        limit = self._plan.sources[chunk.source].limit
        report = Report(self._reports, rank)
        quarantine = self._folder / f"{chunk.name}.quarantine.jsonl"
        with disk_errors(quarantine), open(quarantine, "w", encoding="utf-8") as handle:
            for file, done, record in timed(self, self._records(chunk, ledger)):
                if limit is not None and ledger.read >= limit:
                    break
                ledger.read += 1
                report.update(done / MEGABYTE, ledger.read)
                if isinstance(record, BadRecord):
                    ledger.quarantine(handle, file, str(record.record), record.reason)
                else:
                    yield self._document(chunk, record)
        report.update(chunk.bytes / MEGABYTE, ledger.read, force=True)

    def _records(self, chunk: Chunk, ledger: Ledger) -> Iterator[tuple[str, int, RawDocument | BadRecord]]:
        """Each record with its file and the number of bytes in the files before it."""
        source = self._plan.sources[chunk.source]
        done = 0
        for file in chunk.files:
            path = Path(self._plan.root, file)
            ledger.inputs[file] = sha256_file(path)
            for record in read_source(path, source.reader, source.options, file):
                yield file, done, record
            done += path.stat().st_size

    def _document(self, chunk: Chunk, raw: RawDocument) -> Document:
        metadata = {
            "title": raw.title or "",
            "license": raw.license or self._plan.sources[chunk.source].license,
            "fields": raw.metadata,
            "same_text": raw.same_text,
            "kind": self._plan.sources[chunk.source].kind,
        }
        return Document(text=raw.text, id=f"{chunk.source}/{raw.id}", metadata=metadata)


class Clean(PipelineStep):  # type: ignore[misc]
    """Repairs characters and takes out what is no content, without touching what a text says.

    Args:
        config: the rules, and whether their effect is measured.
        account: shared with the other steps of the same task.
    """

    name = "clean"
    type = "format"

    def __init__(self, config: CleanConfig, account: Account) -> None:
        super().__init__()
        self._config, self._account = config, account

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield every document with its text cleaned."""
        for document in data:
            with self.track_time():
                self._clean(document)
            yield document

    def _clean(self, document: Document) -> None:
        before = document.text
        cleaned = clean(before, self._config.rules)
        document.text = normalise(cleaned.text)
        for removal in cleaned.removed:
            self._account.ledger.remove(document.id, removal.passage, removal.rule)
        if self._config.audit:
            self._account.ledger.survival.add(before, document.text, cleaned.removed)


class Filter(PipelineStep):  # type: ignore[misc]
    """Drops what a rule refuses, and counts its reason.

    Args:
        rules: asked in order; the first refusal decides.
        watched: asked about what passes; their refusals are only counted.
        account: shared with the other steps of the same task.
    """

    name = "filters"
    type = "filter"

    def __init__(
        self, rules: Sequence[DocumentFilter], watched: Sequence[DocumentFilter], account: Account
    ) -> None:
        super().__init__()
        self._rules, self._watched, self._account = rules, watched, account

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents that all rules let pass."""
        for document in data:
            with self.track_time():
                passes = self._passes(document)
            if passes:
                yield document

    def _passes(self, document: Document) -> bool:
        reason = _refusal(self._rules, document)
        if reason is not None:
            self._account.ledger.drop(document.id, document.text, reason)
            return False
        watched = _refusal(self._watched, document)
        if watched is not None:
            self._account.ledger.would_drop[watched] += 1
            self._account.ledger.sample(document.id, document.text, f"general rules: {watched}")
        return True


def _refusal(rules: Sequence[DocumentFilter], document: Document) -> str | None:
    for rule in rules:
        verdict = rule(document)
        if verdict is not True:
            return verdict[1]
    return None


class LookForPatients(PipelineStep):  # type: ignore[misc]
    """Finds identifiers of people, counts them, and does with them what the policy says.

    Args:
        config: the policy.
        account: shared with the other steps of the same task.

    Raises:
        ConfigError: a class is not known, or the model of names is none.
        EnvironmentMissingError: the model of names, or what runs it, is not here.
    """

    name = "look for patients"
    type = "filter"

    def __init__(self, config: PhiConfig, account: Account) -> None:
        super().__init__()
        self._action, self._account, self._names_model = config.action, account, config.names_model
        self._classes = frozenset(config.classes or CLASSES)
        for name in self._classes.difference(CLASSES):
            raise ConfigError(f"curate.phi.classes: no class is called {name!r}{suggest(name, CLASSES)}")
        if config.names_model is not None:
            load_analyzer(config.names_model)  # what is missing shows before the work starts

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield what stays, with placeholders where these are wanted."""
        for document in data:
            with self.track_time():
                found = find_with_names(document.text, self._names_model)
                findings = [finding for finding in found if finding.kind in self._classes]
                stays = not findings or self._stays(document, findings)
            if stays:
                yield document

    def _stays(self, document: Document, findings: list[Finding]) -> bool:
        """Count what was found, and do with the document what the policy says."""
        ledger = self._account.ledger
        ledger.phi.update(finding.kind for finding in findings)
        ledger.phi_documents += 1
        self._sample(document, findings)
        if self._action == "drop":
            ledger.drop(document.id, redact(document.text, findings), "identifies a person")
            return False
        if self._action == "redact":
            document.text = redact(document.text, findings)
        return True

    def _sample(self, document: Document, findings: list[Finding]) -> None:
        """Keep an excerpt of each class; excerpts go to the report, so they never show what was found."""
        first = {finding.kind: position for position, finding in reversed(list(enumerate(findings)))}
        for kind, position in first.items():
            excerpt = in_context(document.text, position, findings)
            self._account.ledger.sample(document.id, excerpt, f"phi: {kind}")


class LookForBenchmarks(PipelineStep):  # type: ignore[misc]
    """Notes which documents share words with benchmark questions; what follows is decided with all known.

    Args:
        plan: all chunks.
        folder: parts folder; `<chunk>.hits.jsonl` has a line for each document with hits.
        index: the benchmarks.
    """

    name = "look for benchmarks"
    type = "decontamination"

    def __init__(self, plan: Plan, folder: Path, index: Index) -> None:
        super().__init__()
        self._plan, self._folder, self._index = plan, folder, index

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield every document as it is."""
        path = self._folder / f"{self._plan.chunks[rank].name}.hits.jsonl"
        with disk_errors(path), open(path, "w", encoding="utf-8") as handle:
            for position, document in enumerate(data):
                with self.track_time():
                    hits = self._index.find(document.text)
                if hits:
                    line = {"document": position, "hits": [hit.to_json() for hit in hits]}
                    handle.write(json.dumps(line) + "\n")
                yield document


class WritePart(PipelineStep):  # type: ignore[misc]
    """Sets the documents aside, hashed, and closes the chunk's account.

    Args:
        plan: all chunks.
        folder: parts folder.
        account: shared with the earlier steps of the same task.
        near: whether signatures for near-duplicates are wanted.
    """

    name = "write part"
    type = "writer"

    def __init__(self, plan: Plan, folder: Path, account: Account, near: bool) -> None:
        super().__init__()
        self._plan, self._folder, self._account, self._near = plan, folder, account, near

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write everything; the last step, so it yields nothing."""
        chunk = self._plan.chunks[rank]
        with ExitStack() as files:
            part = files.enter_context(PartWriter(self._folder / f"{chunk.name}.parquet", PART_SCHEMA))
            signatures = self._folder / f"{chunk.name}.signatures"
            handle = files.enter_context(atomic_write(signatures)) if self._near else None
            for document in data:
                with self.track_time():
                    part.write(_row(document))
                    if handle is not None:
                        handle.write(signature(document.text).tobytes())
        atomic_write_json(self._folder / f"{chunk.name}.json", self._account.ledger.to_json())
        yield from ()


def _row(document: Document) -> dict[str, Any]:
    return {
        "id": document.id,
        "text": document.text,
        "source": document.id.split("/", 1)[0],
        "title": document.metadata["title"],
        "license": document.metadata["license"],
        "metadata": json.dumps(document.metadata["fields"], ensure_ascii=False, sort_keys=True),
        "key": document_key(normalise(document.metadata["same_text"]) or document.text),
        "work": work_key(document.metadata["title"], document.metadata["fields"]),
        "characters": len(document.text),
    }


def extract_steps(
    plan: Plan, config: CurateConfig, folder: Path, reports: Path, index: Index | None
) -> list[PipelineStep]:
    """The first pass as datatrove steps."""
    os.makedirs(folder, exist_ok=True)
    account = Account(config.samples_per_reason)
    return [
        ReadChunk(plan, folder, reports, account),
        Clean(config.clean, account),
        Filter(build_filters(config.filters), watched_filters(config.filters), account),
        *([LookForPatients(config.phi, account)] if config.phi.action != "off" else []),
        *([LookForBenchmarks(plan, folder, index)] if index is not None else []),
        WritePart(plan, folder, account, config.dedup.near),
    ]
