"""Questions of benchmarks, from any JSON, JSON lines or CSV file."""

import csv
import glob
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meditron.config import BenchmarkConfig
from meditron.errors import InputError

_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A text that must not be in the corpus."""

    benchmark: str
    """Name of the benchmark."""
    name: str
    """File and record, or the record's own id."""
    text: str
    """The question or its context."""


def load_items(benchmarks: Mapping[str, BenchmarkConfig], root: Path) -> list[Item]:
    """All texts to look for, in the order of the configuration.

    Raises:
        InputError: a path has no file, a file cannot be read, or none of its records has such a field.
    """
    items = []
    for name, config in benchmarks.items():
        for path in _files(name, config, root):
            found = [
                Item(benchmark=name, name=f"{path.name}:{record}", text=text)
                for record, text in _texts(path, {field.casefold() for field in config.fields})
            ]
            if not found:
                raise InputError(
                    f"{path}: no record has one of the fields {', '.join(config.fields)}; "
                    f"name the question's in curate.decontaminate.benchmarks.{name}.fields"
                )
            items += found
    return items


def benchmark_files(benchmarks: Mapping[str, BenchmarkConfig], root: Path) -> list[Path]:
    """The files of all benchmarks, for what depends on their content."""
    return [path for name, config in benchmarks.items() for path in _files(name, config, root)]


def _files(name: str, config: BenchmarkConfig, root: Path) -> list[Path]:
    paths = [config.path] if isinstance(config.path, str) else config.path
    files: list[Path] = []
    for pattern in paths:
        matches = sorted(map(Path, glob.glob(str(root / pattern), recursive=True)))
        inside = [file for match in matches if match.is_dir() for file in sorted(match.rglob("*"))]
        found = [file for file in [*matches, *inside] if file.is_file() and file.suffix.lower() in _ENDINGS]
        if not found:
            raise InputError(
                f"curate.decontaminate.benchmarks.{name}.path: no file ({', '.join(_ENDINGS)}) at "
                f"{root / pattern}; check the path and data_root"
            )
        files += found
    return files


def _texts(path: Path, fields: set[str]) -> Iterator[tuple[str, str]]:
    """Record and text of each field that is wanted."""
    try:
        if path.suffix.lower() == ".csv":
            yield from _csv_texts(path, fields)
            return
        for name, record in _json_records(path):
            for text in _wanted(record, fields):
                yield name, text
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a benchmark ({error}); mend or leave it out") from error


def _csv_texts(path: Path, fields: set[str]) -> Iterator[tuple[str, str]]:
    """Rows by the names in the first one, or, where it has none of the fields, their first column (MMLU)."""
    with open(path, encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.reader(handle))
    head = [cell.casefold() for cell in rows[0]] if rows else []
    columns = [number for number, cell in enumerate(head) if cell in fields]
    for number, row in enumerate(rows[1:] if columns else rows, start=2 if columns else 1):
        for column in columns or [0]:
            if column < len(row) and row[column].strip():
                yield f"{number}", row[column]


def _json_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Name and record, of a list, of an object of records, or of a file of lines."""
    content = path.read_text(encoding="utf-8-sig")
    try:
        whole = json.loads(content)
    except ValueError:
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield f"{number}", json.loads(line)
        return
    if isinstance(whole, dict) and all(isinstance(value, dict) for value in whole.values()):
        yield from whole.items()
    else:
        for number, record in enumerate(whole if isinstance(whole, list) else [whole], start=1):
            yield f"{number}", record


def _wanted(record: object, fields: set[str]) -> Iterator[str]:
    if not isinstance(record, dict):
        return
    for key, value in record.items():
        if str(key).casefold() in fields:
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and text.strip():
                    yield text
