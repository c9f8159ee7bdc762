"""A training run as its log tells it: what holds after resumed and rolled-back steps, and its speed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from evaluation.report.reading import Json, number
from meditron.errors import InputError
from meditron.runs import RunFolder

Points = list[tuple[float, float]]
WARM_UP_STEPS = 1
"""First steps of a start that compile and allocate; they are left out of the speed."""


@dataclass(kw_only=True)
class TrainingRun:
    """One run folder."""

    folder: Path
    """Where it is."""
    info: Json
    """Its run.json."""
    steps: dict[int, Json] = field(default_factory=dict)
    """Step to its log line; of a step that was done twice, the later one."""
    validation: dict[str, dict[int, Json]] = field(default_factory=dict)
    """Source to step to the validation's log line."""
    events: Counter[str] = field(default_factory=Counter)
    """How often each event happened, repeated steps included."""
    skipped: list[int] = field(default_factory=list)
    """Steps whose loss or gradient was not finite, also those that were undone later."""

    @property
    def last_step(self) -> int:
        """The last step that counts; 0 before the first."""
        return max(self.steps, default=0)

    @property
    def repeated(self) -> int:
        """Steps that were done again after an interruption or a rollback."""
        return self.events["step"] - len(self.steps)

    def curve(self, key: str) -> Points:
        """(step, value) wherever the value is a finite number."""
        return _finite(self.steps, key)

    def validation_curves(self, key: str = "perplexity") -> dict[str, Points]:
        """Source to (step, value)."""
        curves = {source: _finite(records, key) for source, records in self.validation.items()}
        return {source: points for source, points in curves.items() if points}

    def middle(self, key: str) -> float | None:
        """Median over the steps, the first left out where there are others."""
        values = [value for _, value in self.curve(key)]
        return median(values[WARM_UP_STEPS:] or values) if values else None

    def total(self, key: str) -> float | None:
        """The last value of a running total."""
        points = self.curve(key)
        return points[-1][1] if points else None

    def peak(self, key: str) -> float | None:
        """The largest value."""
        return max((value for _, value in self.curve(key)), default=None)

    @property
    def devices(self) -> int | None:
        """Devices whose peak the MFU was divided by."""
        flops, mfu, peak = (self.middle(key) for key in ("flops_per_second", "mfu", "peak_flops"))
        return round(flops / (mfu * peak)) if flops and mfu and peak else None

    def phases(self) -> dict[str, float]:
        """Phase to its seconds over all steps that count."""
        totals: dict[str, float] = {}
        for record in self.steps.values():
            for phase, seconds in record.get("seconds", {}).items():
                totals[phase] = totals.get(phase, 0.0) + (number(seconds) or 0.0)
        return totals

    def shares(self) -> dict[str, float]:
        """Source to its mean share of the batches."""
        totals: dict[str, float] = {}
        known = [record["sources"] for record in self.steps.values() if record.get("sources")]
        for sources in known:
            for name, share in sources.items():
                totals[name] = totals.get(name, 0.0) + (number(share) or 0.0)
        return {source: total / len(known) for source, total in totals.items()}


def _finite(records: Mapping[int, Json], key: str) -> Points:
    values = ((float(step), number(records[step].get(key))) for step in sorted(records))
    return [(step, value) for step, value in values if value is not None]


def read_run(folder: Path) -> TrainingRun:
    """Read a run folder.

    Raises:
        FileNotFoundError: there is none, or it has no log.
        InputError: run.json is damaged, or the log holds no whole line.
    """
    run = RunFolder(folder)
    if not folder.is_dir():
        raise FileNotFoundError(2, "no such folder", str(folder))
    if not run.log_path.exists():
        raise FileNotFoundError(2, "no such file", str(run.log_path))
    records = [record for record in run.read_log() if isinstance(record, dict)]
    if not records:
        raise InputError(
            f"{run.log_path}: holds no whole line of JSON; it is damaged, or nothing was trained"
        )
    replayed = replay(TrainingRun(folder=folder, info=run.info()), records)
    try:
        replayed.phases(), replayed.shares()
    except (AttributeError, TypeError) as error:
        raise InputError(f"{run.log_path}: its steps are not of the expected form ({error})") from error
    return replayed


def replay(run: TrainingRun, records: Sequence[Json]) -> TrainingRun:
    """Add log lines in order; a resume or a rollback takes back what lies after its step."""
    for record in records:
        event, step = str(record.get("event")), record.get("step")
        if not isinstance(step, int):
            continue
        run.events[event] += 1
        if event == "step":
            run.steps[step] = record
            if record.get("skipped"):
                run.skipped.append(step)
        elif event == "validation":
            run.validation.setdefault(str(record.get("source")), {})[step] = record
        elif event in ("resume", "rollback"):
            _take_back(run, step)
    return run


def _take_back(run: TrainingRun, step: int) -> None:
    run.steps = {known: record for known, record in run.steps.items() if known <= step}
    for source, records in run.validation.items():
        run.validation[source] = {known: record for known, record in records.items() if known <= step}


def running_mean(points: Points, width: int) -> Points:
    """Mean of each `width` points in a row, placed at the last of them."""
    total, means = 0.0, []
    for index, (x, y) in enumerate(points):
        total += y
        if index >= width:
            total -= points[index - width][1]
        if index >= width - 1:
            means.append((x, total / width))
    return means


def kinds_of(*tables: Mapping[str, Json] | None) -> dict[str, str]:
    """Source to `medical` or `general`, from the first table that knows it."""
    kinds: dict[str, str] = {}
    for table in tables:
        for source, row in (table or {}).items():
            kinds.setdefault(source, str(row.get("kind", "medical")))
    return kinds
