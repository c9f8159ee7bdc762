"""What evaluation measured: accuracies and perplexities by model, and what of a change is evidence."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.report.compare import Bounds, Change, Score, compare_accuracies, compare_perplexities
from evaluation.report.diagnostics import Diagnosis, diagnose
from evaluation.report.long import Place, read_contexts, read_places
from evaluation.report.reading import Json, Notes, number, read_json, read_lines
from meditron.manifest import read_manifest

USUAL_ORDER = ("base", "pretrained", "finetuned")
PART = "evaluation"
Files = tuple[str, ...]
"""Hashes of the files that questions and solved examples come from."""


@dataclass(frozen=True, kw_only=True)
class ModelResults:
    """One folder of results."""

    label: str
    """Name of the model in this evaluation."""
    folder: Path
    """Where the results are."""
    content: Json
    """results.json."""

    @property
    def model(self) -> Json:
        """Path, identity and parameters."""
        return dict(self.content.get("model") or {})


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """A task under one protocol, over all models."""

    task: str
    """Name of the task."""
    group: str | None
    """Group it belongs to."""
    protocol: str
    """Name of the protocol."""
    protocol_hash: str
    """Hash of prompt, parser and shots."""
    protocol_text: str
    """The protocol in a line."""
    shots: int | None
    """Demonstrations before each question."""
    chance: float | None
    """Accuracy of guessing."""
    cut_prompts: int
    """Prompts, over all models, that lost their beginning to the longest sequence."""
    quarantined: int
    """Questions of the files that could not be used."""
    interval_method: str
    """How the intervals were computed."""
    scores: Mapping[str, Score]
    """Model label to its accuracy."""
    changes: Mapping[str, Change]
    """Label of each later model to its change."""
    subjects: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    """Subject to model label to accuracy."""
    diagnoses: Mapping[str, Diagnosis] = field(default_factory=dict)
    """Model label to what explains its accuracy."""
    places: Mapping[str, Sequence[Place]] = field(default_factory=dict)
    """Model label to its accuracy on hidden facts, where that is what is asked about."""


@dataclass(frozen=True, kw_only=True)
class PerplexityRow:
    """A source of held-out text, over all models."""

    source: str
    """Name of the source."""
    kind: str
    """medical or general."""
    documents: int | None
    """Held-out documents."""
    scores: Mapping[str, Score]
    """Model label to its perplexity."""
    changes: Mapping[str, Change]
    """Label of each later model that was measured as the first one was to its change."""
    hashes: Mapping[str, str]
    """Model label to the hash of how it was measured."""
    protocol_text: str
    """How the first model was measured, in a line."""
    contexts: Mapping[str, Sequence[tuple[int, Score]]] = field(default_factory=dict)
    """Model label to window and perplexity of long documents, the shortest window first."""


def read_results(output: Path, order: Sequence[str], notes: Notes) -> list[ModelResults]:
    """The whole results folders under `output`, the earliest model first; others become notes."""
    if not output.is_dir():
        notes.add(PART, f"{output} does not exist")
        return []
    ranks = {label: rank for rank, label in enumerate([*order, *USUAL_ORDER])}
    folders = sorted(
        (path for path in output.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: (ranks.get(path.name, len(ranks)), path.name),
    )
    read = [notes.attempt(PART, path, partial(_read_one, path)) for path in folders]
    found = [results for results in read if results is not None]
    missing = [label for label in order if label not in {path.name for path in folders}]
    for label in missing:
        notes.add(PART, f"{output / label} does not exist: the model {label!r} was not evaluated")
    return found


def _read_one(folder: Path) -> ModelResults:
    read_manifest(folder, kind="results", check_files="full")
    content = read_json(folder / "results.json")
    for entry in content.get("tasks", []):  # refuse the folder here, rather than all of the table later
        _accuracy(entry)
        _subjects({folder.name: entry})
        diagnose(entry)
        read_places(entry)
    for entry in content.get("perplexity", []):
        _perplexity_row(str(entry["source"]), {folder.name: entry})
    return ModelResults(label=folder.name, folder=folder, content=content)


def samples_path(folder: Path, task: str, protocol: str) -> Path:
    """The file with one line a question."""
    return folder / f"samples-{task}-{protocol}.jsonl"


def task_rows(models: Sequence[ModelResults], notes: Notes) -> list[TaskRow]:
    """Every task and protocol that any model was measured on, in the order of the files.

    Models that were asked in another way, or from other files, stand in rows of their own.
    """
    found: dict[tuple[str, str, str], dict[Files, dict[str, Json]]] = {}
    for model in models:
        for entry in model.content.get("tasks", []):
            key = (str(entry["task"]), str(entry["protocol"]), str(entry.get("protocol_hash", "")))
            found.setdefault(key, {}).setdefault(_files(entry), {})[model.label] = entry
    folders = {model.label: model.folder for model in models}
    for key, rows in found.items():
        if len(rows) > 1:
            notes.add(PART, _not_compared(key, rows.values()))
    return [_task_row(key, row, folders, notes) for key, rows in found.items() for row in rows.values()]


def _files(entry: Json) -> Files:
    return tuple(sorted((entry.get("file_sha256") or {}).values()))


def _not_compared(key: tuple[str, str, str], rows: Collection[Mapping[str, Json]]) -> str:
    """Which models a task's questions cannot be compared on, and why."""
    entries = [entry for row in rows for entry in row.values()]
    hashes = [set((entry.get("file_sha256") or {}).items()) for entry in entries]
    names = sorted({name for name, _ in set.union(*hashes) - set.intersection(*hashes)})
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    labels = " with ".join(" and ".join(row) for row in rows)
    return f"a comparison of {labels} on {key[0]}, {key[1]}: they were asked from other files ({listed})"


def _task_row(
    key: tuple[str, str, str], entries: Mapping[str, Json], folders: Mapping[str, Path], notes: Notes
) -> TaskRow:
    task, protocol, protocol_hash = key
    any_entry = next(iter(entries.values()))
    scores = {label: _accuracy(entry) for label, entry in entries.items()}
    answers = {
        label: _answers(folders[label], task, protocol, list(entry.get("seeds") or {}), notes)
        for label, entry in entries.items()
    }
    first, *later = scores
    return TaskRow(
        task=task,
        group=any_entry.get("group"),
        protocol=protocol,
        protocol_hash=protocol_hash,
        protocol_text=str(any_entry.get("protocol_text", "")),
        shots=any_entry.get("shots"),
        chance=number(any_entry.get("chance")),
        cut_prompts=sum(int(entry.get("cut_prompts") or 0) for entry in entries.values()),
        quarantined=int(any_entry.get("quarantined") or 0),
        interval_method=str(any_entry.get("ci_method", "")),
        scores=scores,
        changes={
            label: compare_accuracies(scores[first], scores[label], answers[first], answers[label])
            for label in later
        },
        subjects=_subjects(entries),
        diagnoses={label: diagnose(entry) for label, entry in entries.items()},
        places={label: read_places(entry) for label, entry in entries.items() if entry.get("by_place")},
    )


def _accuracy(entry: Json) -> Score:
    return Score(
        value=float(entry["accuracy"]),
        bounds=_bounds(entry.get("ci")),
        count=entry.get("n"),
        correct=entry.get("correct"),
        invalid=entry.get("invalid"),
        ties=entry.get("ties"),
    )


def _bounds(value: Any) -> Bounds | None:  # noqa: ANN401 - any JSON value
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def _subjects(entries: Mapping[str, Json]) -> dict[str, dict[str, Score]]:
    subjects: dict[str, dict[str, Score]] = {}
    for label, entry in entries.items():
        for subject, figures in (entry.get("subjects") or {}).items():
            subjects.setdefault(subject, {})[label] = _accuracy(figures)
    return subjects if len(subjects) > 1 else {}


def _answers(folder: Path, task: str, protocol: str, seeds: Sequence[str], notes: Notes) -> dict[str, float]:
    """Question id to whether it was answered correctly, the mean over the seeds; {} where a file lacks."""
    found: dict[str, list[float]] = {}
    for asked in (protocol, *(f"{protocol}-seed{seed}" for seed in seeds[1:])):
        path = samples_path(folder, task, asked)
        read = notes.attempt(PART, path, partial(_right, path))
        if read is None or (found and read.keys() != found.keys()):
            return {}
        for key, right in read.items():
            found.setdefault(key, []).append(right)
    return {key: sum(rights) / len(rights) for key, rights in found.items()}


def _right(path: Path) -> dict[str, float]:
    return {str(line["id"]): float(line["correct"]) for line in read_lines(path)}


def perplexity_rows(models: Sequence[ModelResults]) -> list[PerplexityRow]:
    """Every source of held-out text, medical ones first."""
    found: dict[str, dict[str, Json]] = {}
    for model in models:
        for entry in model.content.get("perplexity", []):
            found.setdefault(str(entry["source"]), {})[model.label] = entry
    rows = [_perplexity_row(source, entries) for source, entries in found.items()]
    return sorted(rows, key=lambda row: (row.kind != "medical", row.source))


def _perplexity_row(source: str, entries: Mapping[str, Json]) -> PerplexityRow:
    any_entry = next(iter(entries.values()))
    scores = {
        label: Score(
            value=float(entry["perplexity"]),
            bounds=_bounds(entry.get("ci")),
            count=entry.get("tokens"),
            documents=[(float(loss), int(tokens)) for loss, tokens in entry.get("document_losses", [])],
        )
        for label, entry in entries.items()
    }
    first, *later = scores
    hashes = {label: str(entry.get("protocol_hash", "")) for label, entry in entries.items()}
    return PerplexityRow(
        source=source,
        kind=str(any_entry.get("kind", "medical")),
        documents=any_entry.get("documents"),
        scores=scores,
        changes={
            label: compare_perplexities(scores[first], scores[label])
            for label in later
            if hashes[label] == hashes[first]
        },
        hashes=hashes,
        protocol_text=str(any_entry.get("protocol_text", "")),
        contexts={label: read_contexts(entry) for label, entry in entries.items() if entry.get("by_context")},
    )
