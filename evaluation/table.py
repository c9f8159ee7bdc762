"""The results on the terminal, at 80 columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WIDTH = 80
MODELS_BESIDE = 3
"""Models that fit beside each other; more go to further tables."""

Results = Mapping[str, Mapping[str, Any]]
"""Label of each model to the content of its results.json."""


def print_results(results: Results) -> None:
    """Print accuracies and perplexities of all models."""
    labels = list(results)
    for begin in range(0, len(labels), MODELS_BESIDE):
        shown = {label: results[label] for label in labels[begin : begin + MODELS_BESIDE]}
        _print("accuracy in %, with its 95 % interval", ("task", "protocol"), shown, _accuracies(shown))
        _print("perplexity, with its 95 % interval", ("source", "kind"), shown, _perplexities(shown))


def _print(title: str, headings: Sequence[str], results: Results, rows: Iterator[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for label in results:
        table.add_column(label, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    if table.row_count:
        Console(width=WIDTH, highlight=False).print(table)


def _accuracies(results: Results) -> Iterator[Sequence[str]]:
    """Task with its number of questions and chance level, protocol with its hash, then each model."""
    for names, entries in _aligned(results, "tasks", ("task", "protocol", "protocol_hash")):
        entry = next(iter(entries.values()))
        head = f"{names[0]}\nn {entry['n']:,}, chance {100 * entry['chance']:.0f}"
        yield head, f"{names[1]}\n{names[2]}", *_cells(results, entries, _accuracy)


def _accuracy(entry: Mapping[str, Any]) -> str:
    low, high = entry["ci"]
    invalid = f"\n{entry['invalid']} invalid" if entry["invalid"] else ""
    ties = f"\n{entry['ties']} tied" if "ties" in entry else ""
    return f"{100 * entry['accuracy']:.1f}\n{100 * low:.1f} - {100 * high:.1f}{invalid}{ties}"


def _perplexities(results: Results) -> Iterator[Sequence[str]]:
    for names, entries in _aligned(results, "perplexity", ("source", "kind", "protocol_hash")):
        yield names[0], f"{names[1]}\n{names[2]}", *_cells(results, entries, _perplexity)


def _perplexity(entry: Mapping[str, Any]) -> str:
    interval = "\n{:.2f} - {:.2f}".format(*entry["ci"]) if "ci" in entry else ""
    return f"{entry['perplexity']:.2f}{interval}"


def _aligned(
    results: Results, section: str, keys: Sequence[str]
) -> Iterator[tuple[Sequence[str], dict[str, Mapping[str, Any]]]]:
    """Entries of all models that stand for the same thing, in the order of the first model."""
    found: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for label, content in results.items():
        for entry in content[section]:
            found.setdefault(tuple(entry[key] for key in keys), {})[label] = entry
    yield from found.items()


def _cells(results: Results, entries: Mapping[str, Mapping[str, Any]], cell: Any) -> list[str]:  # noqa: ANN401
    return [cell(entries[label]) if label in entries else "not measured" for label in results]
