"""What each step of curation costs: datatrove's own timers, summed over the tasks."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from datatrove.pipeline.base import PipelineStep

from data_curation.plan import Plan

_Item = TypeVar("_Item")
_END = object()


def timed(step: PipelineStep, items: Iterable[_Item]) -> Iterator[_Item]:
    """The items, with the time that making them takes counted as the step's."""
    iterator = iter(items)
    while True:
        with step.track_time():
            item: Any = next(iterator, _END)
        if item is _END:
            return
        yield item


def throughput(plan: Plan, work: Path, stages: Iterable[str]) -> list[dict[str, Any]]:
    """Each step's stage, name, seconds of all tasks together, and megabytes of input a second of one core.

    Steps of a task that an earlier, interrupted run finished count too.
    """
    megabytes = sum(chunk.bytes for chunk in plan.chunks) / 1e6
    seconds: dict[tuple[str, str], float] = {}
    for stage in stages:
        for path in sorted((work / stage / "stats").glob("*.json")):
            for step in json.loads(path.read_text(encoding="utf-8")):
                key = stage, str(step["name"]).rpartition(": ")[2]
                seconds[key] = seconds.get(key, 0.0) + float(step["time_stats"].get("total", 0.0))
    return [
        {
            "stage": stage,
            "step": name,
            "seconds": round(taken, 3),
            "megabytes_per_second": round(megabytes / taken, 3) if taken else None,
        }
        for (stage, name), taken in seconds.items()
    ]
