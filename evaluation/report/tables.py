"""The numbers of the page's tables as JSON and CSV."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from evaluation.report.build import Page
from evaluation.report.compare import Change
from evaluation.report.results import PerplexityRow, TaskRow

COLUMNS = (
    "measure",
    "model",
    "name",
    "protocol",
    "protocol_hash",
    "value",
    "low",
    "high",
    "count",
    "ties",
    "change",
    "change_low",
    "change_high",
    "p_value",
    "verdict",
)
"""Columns of the CSV: one row for each model and each task or source."""


def as_json(page: Page) -> dict[str, Any]:
    """Everything that the tables show, by section; a missing section is null or empty."""
    return {
        "title": page.title,
        "written": page.written,
        "missing": [asdict(note) for note in page.notes.found],
        "stages": dict(page.stages),
        "corpus": {source.name: _without_samples(asdict(source)) for source in page.corpus.sources}
        if page.corpus
        else None,
        "tokens": page.shards.sources if page.shards else None,
        "pretraining": _training(page.pretraining),
        "finetuning": _training(page.finetuning),
        "perplexity": [_with_verdicts(row) for row in page.perplexity],
        "accuracy": [_with_verdicts(row) for row in page.tasks],
        "manifests": {item.name: item.manifest.hash for item in page.provenance},
    }


def _without_samples(source: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key not in ("samples", "name")}


def _training(run: Any) -> dict[str, Any] | None:  # noqa: ANN401 - a TrainingRun or None
    if run is None:
        return None
    losses = run.curve("loss")
    return {
        "steps": run.last_step,
        "tokens": run.total("tokens"),
        "first_loss": losses[0][1] if losses else None,
        "last_loss": losses[-1][1] if losses else None,
        "tokens_per_second": run.middle("tokens_per_second"),
        "flops_per_second": run.middle("flops_per_second"),
        "mfu": run.middle("mfu"),
        "peak_flops": run.middle("peak_flops"),
        "seconds": run.phases(),
        "skipped_steps": run.skipped,
        "validation_perplexity": {s: points[-1][1] for s, points in run.validation_curves().items()},
    }


def _with_verdicts(row: TaskRow | PerplexityRow) -> dict[str, Any]:
    content = asdict(row)
    for score in content["scores"].values():
        del score["documents"]  # as many as there are held-out documents; they are in results.json
    for label, change in row.changes.items():
        content["changes"][label]["verdict"] = change.verdict
    return content


def as_csv(page: Page) -> str:
    """Accuracies and perplexities, one row a number."""
    handle = io.StringIO()
    writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(page))
    return handle.getvalue()


def _rows(page: Page) -> Iterator[dict[str, Any]]:
    for source in page.perplexity:
        yield from _scores(source, {"measure": "perplexity", "name": source.source}, source.hashes)
    for task in page.tasks:
        names = {"measure": "accuracy", "name": task.task, "protocol": task.protocol}
        yield from _scores(task, names, dict.fromkeys(task.scores, task.protocol_hash))


def _scores(
    row: TaskRow | PerplexityRow, names: dict[str, str], hashes: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    for label, score in row.scores.items():
        names = {**names, "protocol_hash": hashes[label]}
        low, high = score.bounds or (None, None)
        figures = {"value": score.value, "low": low, "high": high, "count": score.count, "ties": score.ties}
        yield {**names, "model": label, **figures, **_change(row.changes.get(label))}


def _change(change: Change | None) -> dict[str, Any]:
    if change is None:
        return {}
    low, high = change.interval or change.paired or (None, None)
    figures = {"change": change.difference, "change_low": low, "change_high": high}
    return {**figures, "p_value": change.p_value, "verdict": change.verdict}
