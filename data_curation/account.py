"""The corpus's statistics: per source what was read, kept, dropped and why."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from data_curation.card import LENGTHS
from data_curation.decide import Decisions, load_ledgers
from data_curation.ledger import Ledger, merge
from data_curation.plan import Plan
from meditron.files import atomic_write
from meditron.progress import console


def corpus_statistics(
    plan: Plan, work: Path, decisions: Decisions, samples_per_reason: int
) -> dict[str, dict[str, Any]]:
    """The `sources` of `stats.json`; for each source read = kept + dropped + quarantined."""
    statistics = {}
    for name, source in plan.sources.items():
        ledger = merge(load_ledgers(plan, work / "parts", name), name, samples_per_reason)
        counts, licenses, lengths = _published(plan, work / "decisions", name)
        dropped = ledger.dropped + decisions.by_source.get(name, Counter())
        kept = counts["train"] + counts["validation"]
        assert ledger.read == kept + dropped.total() + ledger.quarantined, f"{name}: records went missing"
        statistics[name] = {
            "kind": source.kind,
            "read": ledger.read,
            "kept": kept,
            "train": counts["train"],
            "validation": counts["validation"],
            "chars": counts["chars"],
            "lengths": lengths,
            "dropped": dict(sorted(dropped.items())),
            "quarantined": ledger.quarantined,
            "removed": {
                rule: {"passages": count, "chars": ledger.removed_characters[rule]}
                for rule, count in sorted(ledger.removed.items())
            },
            **({"survival": _survival(ledger)} if ledger.survival.tokens else {}),
            "would_drop": dict(sorted(ledger.would_drop.items())),
            "phi": {"documents": ledger.phi_documents, "found": dict(sorted(ledger.phi.items()))},
            "license": source.license,
            "licenses": dict(sorted(licenses.items())),
            "samples": [sample for _, samples in sorted(ledger.samples.items()) for sample in samples],
        }
    return statistics


def _survival(ledger: Ledger) -> dict[str, Any]:
    """Clinical tokens through cleaning; `share` is of the text that was kept."""
    survival = ledger.survival
    return {
        "tokens": survival.tokens,
        "removed": dict(sorted(survival.removed.items())),
        "lost": survival.lost,
        "share": survival.share,
    }


def _published(plan: Plan, decisions: Path, source: str) -> tuple[Counter[str], Counter[str], list[int]]:
    """Counts, licences and classes of length of a source's published documents."""
    counts: Counter[str] = Counter()
    licenses: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    for chunk in plan.chunks:
        if chunk.source == source:
            content = json.loads((decisions / f"{chunk.name}.json").read_text(encoding="utf-8"))
            counts.update(content["counts"])
            licenses.update(content["licenses"])
            lengths.update(dict(enumerate(content["lengths"])))
    return counts, licenses, [lengths[n] for n in range(len(LENGTHS) + 1)]


def write_quarantine(plan: Plan, parts: Path, path: Path) -> None:
    """Join the chunks' quarantine files, in order."""
    with atomic_write(path) as target:
        for chunk in plan.chunks:
            with open(parts / f"{chunk.name}.quarantine.jsonl", "rb") as handle:
                shutil.copyfileobj(handle, target)


def print_summary(statistics: dict[str, dict[str, Any]], output: Path) -> None:
    """A table of the sources for people, fit for 80 columns, and below it what was dropped and why."""
    from rich.table import Table

    table = Table(title=f"corpus  {output}", title_justify="left", title_style="bold", box=None)
    for heading in ("source", "kind"):
        table.add_column(heading, overflow="fold")
    for heading in ("read", "kept", "held out", "M chars"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, source in statistics.items():
        numbers = [f"{source[column]:,}" for column in ("read", "kept", "validation")]
        table.add_row(name, source["kind"], *numbers, f"{source['chars'] / 1e6:,.2f}")
    console().print(table)
    for name, source in statistics.items():
        reasons = dict(source["dropped"])
        if source["quarantined"]:
            reasons["unreadable"] = source["quarantined"]
        if reasons:
            listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
            console().print(f"dropped from {name}: {listed}")
