"""What happened to the records of one chunk: counts, reasons, samples, and the unreadable ones."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import xxhash

from data_curation.clean.audit import Survival

EXCERPT_CHARACTERS = 240
_COUNTERS = ("dropped", "would_drop", "removed", "removed_characters", "phi")


@dataclass(kw_only=True)
class Ledger:
    """The account of one chunk."""

    source: str
    """Name of the source."""
    samples_per_reason: int = 3
    """Excerpts kept for each reason."""
    read: int = 0
    """Records read, good or bad; equals kept + dropped + quarantined."""
    quarantined: int = 0
    """Records that could not be read."""
    first_bad: str | None = None
    """File and reason of the first of them."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason to number of documents."""
    would_drop: Counter[str] = field(default_factory=Counter)
    """Reason to number of documents that rules which are only watched would drop."""
    phi: Counter[str] = field(default_factory=Counter)
    """Class of identifier to number of passages."""
    phi_documents: int = 0
    """Documents that have one."""
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Reason to excerpts of documents it dropped."""
    removed: Counter[str] = field(default_factory=Counter)
    """Cleaning rule to number of passages it took out."""
    removed_characters: Counter[str] = field(default_factory=Counter)
    """Cleaning rule to their characters."""
    survival: Survival = field(default_factory=Survival)
    """Clinical tokens through cleaning, where that is measured."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Input file to its SHA-256."""

    def drop(self, identifier: str, text: str, reason: str) -> None:
        """Count a dropped document, and keep an excerpt of a few."""
        self.dropped[reason] += 1
        self.sample(identifier, text, reason)

    def sample(self, identifier: str, text: str, reason: str) -> None:
        """Keep an excerpt; which ones stay depends on their ids alone, so any order gives the same."""
        sample = {"reason": reason, "id": identifier, "excerpt": text[:EXCERPT_CHARACTERS].strip()}
        self.samples[reason] = _fewest([*self.samples.get(reason, []), sample], self.samples_per_reason)

    def remove(self, identifier: str, passage: str, rule: str) -> None:
        """Count a passage that cleaning took out, and keep an excerpt of a few."""
        self.removed[rule] += 1
        self.removed_characters[rule] += len(passage)
        self.sample(identifier, passage, f"removed: {rule}")

    def quarantine(self, handle: IO[str], file: str, record: str, reason: str) -> None:
        """Write an unreadable record's place and reason to the quarantine file, and count it."""
        entry = {"source": self.source, "file": file, "record": record, "reason": reason}
        handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.quarantined += 1
        self.first_bad = self.first_bad or f"{file} ({record}): {reason}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        # asdict would rebuild the Counters from pairs.
        counters = {name: dict(getattr(self, name)) for name in _COUNTERS}
        return vars(self) | counters | {"survival": vars(self.survival)}

    @classmethod
    def load(cls, path: Path) -> "Ledger":
        """Read what `to_json` gave."""
        content = json.loads(path.read_text(encoding="utf-8"))
        content |= {name: Counter(content[name]) for name in _COUNTERS}
        survival = content["survival"]
        content["survival"] = Survival(**survival | {"removed": Counter(survival["removed"])})
        return cls(**content)


class Account:
    """The ledger of the task at work, shared by its steps; travels to the worker with them.

    Args:
        samples_per_reason: excerpts kept for each reason.
    """

    def __init__(self, samples_per_reason: int) -> None:
        self._samples_per_reason = samples_per_reason
        self._ledger: Ledger | None = None

    def open(self, source: str) -> Ledger:
        """Begin the ledger of a chunk of a source."""
        self._ledger = Ledger(source=source, samples_per_reason=self._samples_per_reason)
        return self._ledger

    @property
    def ledger(self) -> Ledger:
        """The chunk's ledger."""
        assert self._ledger is not None, "ReadChunk opens the account before any step uses it"
        return self._ledger


def merge(ledgers: Iterable[Ledger], source: str, samples_per_reason: int) -> Ledger:
    """The account of all of a source's chunks together."""
    total = Ledger(source=source, samples_per_reason=samples_per_reason)
    for ledger in ledgers:
        total.read += ledger.read
        total.quarantined += ledger.quarantined
        total.phi_documents += ledger.phi_documents
        total.first_bad = total.first_bad or ledger.first_bad
        for name in _COUNTERS:
            getattr(total, name).update(getattr(ledger, name))
        total.survival.update(ledger.survival)
        total.inputs.update(ledger.inputs)
        for reason, samples in ledger.samples.items():
            total.samples[reason] = _fewest([*total.samples.get(reason, []), *samples], samples_per_reason)
    return total


def _fewest(samples: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    return sorted(
        samples, key=lambda sample: (xxhash.xxh3_64_intdigest(sample["id"].encode()), sample["id"])
    )[:count]
