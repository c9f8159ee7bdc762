"""Second pass, one task a chunk: the documents that stay, as the corpus's Parquet files."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from data_curation.card import LENGTHS, length_class
from data_curation.decontaminate.verdict import redact
from data_curation.executor import Report
from data_curation.parts import CORPUS_SCHEMA, PartWriter, read_rows
from data_curation.plan import Plan
from data_curation.split import DROPPED, SPLITS
from data_curation.timing import timed
from meditron.files import atomic_write_json


class PublishChunk(PipelineStep):  # type: ignore[misc]
    """Copies a part's kept documents to `train/<chunk>.parquet` and `validation/<chunk>.parquet`.

    Args:
        plan: all chunks.
        parts: folder of the first pass.
        decisions: folder of the decisions.
        output: the corpus in the making.
        reports: folder that progress is reported under.
    """

    name = "publish chunk"
    type = "writer"

    def __init__(self, plan: Plan, parts: Path, decisions: Path, output: Path, reports: Path) -> None:
        super().__init__()
        self._plan, self._parts, self._decisions = plan, parts, decisions
        self._output, self._reports = output, reports

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:  # noqa: ANN401
        """Write the chunk's files, and `<chunk>.json` with what is in them, beside the decisions."""
        chunk = self._plan.chunks[rank]
        sides = np.load(self._decisions / f"{chunk.name}.npy")
        report = Report(self._reports, rank)
        spans = self._decisions / f"{chunk.name}.redact.json"
        redactions = json.loads(spans.read_text(encoding="utf-8")) if spans.exists() else {}
        counts: Counter[str] = Counter()
        licenses: Counter[str] = Counter()
        lengths = [0] * (len(LENGTHS) + 1)
        with ExitStack() as stack:
            writers = {
                side: stack.enter_context(
                    PartWriter(self._output / split / f"{chunk.name}.parquet", CORPUS_SCHEMA)
                )
                for side, split in SPLITS.items()
                if np.any(sides == side)
            }
            rows = read_rows(self._parts / f"{chunk.name}.parquet", CORPUS_SCHEMA.names)
            for index, row in enumerate(timed(self, rows)):
                side = int(sides[index])
                if side != DROPPED:
                    if str(index) in redactions:
                        row["text"] = redact(row["text"], redactions[str(index)])
                    with self.track_time():
                        writers[side].write(row)
                    counts.update({SPLITS[side]: 1, "chars": len(row["text"])})
                    licenses[row["license"]] += 1
                    lengths[length_class(len(row["text"]))] += 1
                report.update(0.0, index + 1)
        content = {"counts": counts, "licenses": licenses, "lengths": lengths}
        atomic_write_json(self._decisions / f"{chunk.name}.json", content)
        report.update(0.0, len(sides), force=True)
        yield from ()
