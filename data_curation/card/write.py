"""`README.md`, which the Hugging Face hub and `datasets` read, and `card.html` of the same figures."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_curation.mixture import CHARACTERS_PER_TOKEN
from data_curation.phi import redact
from data_curation.phi.names import find_with_names
from meditron.config import CurateConfig, PhiConfig
from meditron.files import atomic_write_text

LENGTHS = (500, 2_000, 8_000, 32_000, 128_000)
"""Bounds of the classes of length, characters."""
_EXCERPT = 400
Json = dict[str, Any]


def length_class(characters: int) -> int:
    """Position of a document's length among the classes: 0 is under the first bound."""
    return bisect_right(LENGTHS, characters)


def write_card(
    folder: Path, name: str, statistics: Mapping[str, Json], config: CurateConfig, benchmarks: Json
) -> None:
    """Write both forms of the card beside the corpus.

    Args:
        folder: the corpus, with its Parquet files.
        name: what the card calls it.
        statistics: the `sources` of `stats.json`.
        config: how it was made.
        benchmarks: what was looked for and found of each, by name.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("data_curation.card", "."),
        autoescape=True,  # texts of documents stay texts, in Markdown as well
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda value: f"{value:,.0f}"
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "¦")
    figures = {
        **_totals(statistics),
        "name": name,
        "splits": [split for split in ("train", "validation") if any((folder / split).glob("*.parquet"))],
        "length_names": _length_names(),
        "benchmarks": benchmarks,
        "samples": _samples(folder, statistics, config.phi),
        "config": config,
    }
    for template, file in (("card.md.jinja", "README.md"), ("card.html.jinja", "card.html")):
        atomic_write_text(folder / file, environment.get_template(template).render(figures))


def _totals(statistics: Mapping[str, Json]) -> Json:
    """Sums over the sources."""
    rows = statistics.values()
    counted = ("read", "kept", "train", "validation", "chars", "quarantined")
    total = {key: sum(row[key] for row in rows) for key in counted}
    return {
        "sources": statistics,
        "total": total,
        "tokens": {name: row["chars"] / CHARACTERS_PER_TOKEN for name, row in statistics.items()},
        "all_tokens": total["chars"] / CHARACTERS_PER_TOKEN,
        "characters_per_token": CHARACTERS_PER_TOKEN,
        "dropped": _sums(row["dropped"] for row in rows),
        "would_drop": _sums(row["would_drop"] for row in rows),
        "phi": _sums(row["phi"]["found"] for row in rows),
        "licenses": _sums(row["licenses"] for row in rows),
        "removed": _sums({rule: n["passages"] for rule, n in row["removed"].items()} for row in rows),
    }


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _length_names() -> list[str]:
    bounds = [f"{bound:,}" for bound in LENGTHS]
    inner = [f"{low} to {high}" for low, high in pairwise(bounds)]
    return [f"under {bounds[0]}", *inner, f"{bounds[-1]} and more"]


def _samples(folder: Path, statistics: Mapping[str, Json], phi: PhiConfig) -> dict[str, Json]:
    """The head of one training document of each source; what identifies a person is never shown."""
    samples = {}
    model = None if phi.action == "off" else phi.names_model
    for name in statistics:
        files = sorted((folder / "train").glob(f"{name}-[0-9][0-9][0-9][0-9][0-9].parquet"))
        if files:
            with pq.ParquetFile(files[0]) as file:
                batch = next(file.iter_batches(batch_size=1, columns=["id", "text"]))
            text = batch["text"][0].as_py()[:_EXCERPT]
            samples[name] = {"id": batch["id"][0].as_py(), "text": redact(text, find_with_names(text, model))}
    return samples
