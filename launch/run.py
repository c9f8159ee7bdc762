"""`meditron run`: all stages of a recipe on this machine, from the first unfinished one."""

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from launch.record import Records, StageRecord, only_one
from launch.relay import Relay
from launch.stages import BY_NAME, STAGES, Stage
from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.errors import REQUEUE_EXIT_CODE, ConfigError, StageError
from meditron.files import atomic_write_text
from meditron.progress import console, format_seconds

if TYPE_CHECKING:
    from rich.table import Table

MEDITRON = (sys.executable, "-m", "meditron")
_INTERRUPTED = 130


def main(recipe: Recipe) -> int:
    """Run a recipe's stages, each in a process of its own.

    Returns:
        0, or the documented code of a run that was told to stop.

    Raises:
        ConfigError: `run.from_stage` is no stage of this recipe, or the recipe has none.
        InputError: another run is at work in the same folder, or its record is damaged.
        StageError: a stage failed; carries that stage's exit code.
    """
    return run_stages(recipe, MEDITRON)


def run_stages(recipe: Recipe, command: Sequence[str]) -> int:
    """As `main`, with the words before `<verb> --config <recipe>` that start a stage."""
    work = Path(recipe.work_dir)
    with only_one(work) as lock, Relay() as relay:
        run = _Run(
            recipe=recipe,
            command=tuple(command),
            lock=lock,
            relay=relay,
            records=Records(work / "run.json"),
            stages=_chosen(recipe),
            config=work / "recipe.yaml",
        )
        atomic_write_text(run.config, dump_recipe(recipe))
        return run.go()


def _chosen(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that a recipe has; says why the others are left out."""
    reasons = {stage.name: stage.left_out(recipe) for stage in STAGES}
    forced = recipe.run.from_stage
    if forced is not None and reasons[forced] is not None:
        raise ConfigError(f"run.from_stage: {forced!r} is not in this recipe ({reasons[forced]})")
    if all(reasons.values()):
        raise ConfigError(
            "run: the recipe has no stage to run; give curate.sources, or --config with a recipe that has"
        )
    for name, reason in reasons.items():
        if reason is not None:
            _say(f"      {name:<9} skipped: {reason}")
    return tuple(stage for stage in STAGES if reasons[stage.name] is None)


def _say(line: str) -> None:
    console().print(line, markup=False, soft_wrap=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(kw_only=True)
class _Run:
    """One start of `meditron run`."""

    recipe: Recipe
    command: tuple[str, ...]
    lock: int
    relay: Relay
    records: Records
    stages: tuple[Stage, ...]
    config: Path

    def go(self) -> int:
        """Run what is to be run; returns the exit code."""
        first = self._first()
        for index, stage in enumerate(self.stages):
            if index < first:
                known = self.records.get(stage.name)
                seconds = known.seconds if known else None
                self._tell(index, f"finished before{_in(seconds)}")
                continue
            if self.relay.received is None:
                self._run_stage(index)
            if self.relay.received is not None or self._state(stage) == "stopped":
                return self._stop()
        console().print(self._summary())
        report = BY_NAME["report"].output(self.recipe)
        if report.is_file():
            _say(f"report: {report}")
        return 0

    def _first(self) -> int:
        """Index of the stage to start at: the one asked for, or the first unfinished one."""
        forced = self.recipe.run.from_stage
        for index, stage in enumerate(self.stages):
            if stage.name == forced or (forced is None and not self._is_finished(stage)):
                return index
        return len(self.stages)

    def _is_finished(self, stage: Stage) -> bool:
        record = self.records.get(stage.name)
        return (
            record is not None
            and record.state == "finished"
            and record.config_hash == stage.config_hash(self.recipe)
            and dict(record.inputs) == stage.inputs(self.recipe)
            and stage.finished_identity(self.recipe) is not None
        )

    def _run_stage(self, index: int) -> None:
        """Run one stage and record how it ended; raises StageError when it failed."""
        stage = self.stages[index]
        self._tell(index, f"started{self._left(index)}")
        record = StageRecord(
            state="running",
            config_hash=stage.config_hash(self.recipe),
            inputs=stage.inputs(self.recipe),
            started=_now(),
        )
        spent = self._spent_before(stage, record)
        self.records.set(stage.name, replace(record, seconds=spent))
        started = time.monotonic()
        code = self.relay.run([*self.command, stage.name, "--config", str(self.config)], self.lock)
        seconds = round(spent + time.monotonic() - started, 1)
        state = self._state_after(stage, code)
        ended = replace(record, state=state, ended=_now(), seconds=seconds, exit_code=code)
        self.records.set(stage.name, ended)
        if state == "failed":
            raise self._failure(stage, code)
        self._tell(index, f"{state}{_in(seconds)}")

    def _spent_before(self, stage: Stage, now: StageRecord) -> float:
        """Seconds that earlier, unfinished starts of the same work took."""
        before = self.records.get(stage.name)
        if before is None or before.state == "finished" or before.seconds is None:
            return 0.0
        same = (before.config_hash, dict(before.inputs)) == (now.config_hash, dict(now.inputs))
        return before.seconds if same else 0.0

    def _state_after(self, stage: Stage, code: int) -> str:
        if code == 0:
            return "finished" if stage.finished_identity(self.recipe) is not None else "failed"
        told_to_stop = self.relay.received is not None and (code < 0 or code > 128)
        return "stopped" if code == REQUEUE_EXIT_CODE or told_to_stop else "failed"

    def _failure(self, stage: Stage, code: int) -> StageError:
        if code == 0:
            what = f"ended without an error, but {stage.output(self.recipe)} is not whole"
        elif code < 0:
            what = f"was killed by {signal.Signals(-code).name} (out of memory?)"
        else:
            what = f"failed with exit code {code}"
        error = StageError(
            f"{stage.name} {what}; mend that and start the same command again: it goes on at "
            f"{stage.name}, what is finished is kept"
        )
        if code > 0:
            error.exit_code = code
        return error

    def _state(self, stage: Stage) -> str | None:
        record = self.records.get(stage.name)
        return record.state if record else None

    def _stop(self) -> int:
        code = _INTERRUPTED if self.relay.received == signal.SIGINT else REQUEUE_EXIT_CODE
        _say("run: stopped; what is finished is kept, start the same command again to go on")
        return code

    def _tell(self, index: int, text: str) -> None:
        _say(f"[{index + 1}/{len(self.stages)}] {self.stages[index].name:<9} {text}")

    def _left(self, index: int) -> str:
        """Time left by what the same stages took when they last finished, where that is known of all."""
        known = [self.records.get(stage.name) for stage in self.stages[index:]]
        seconds = [record.seconds for record in known if record and record.state == "finished"]
        if len(seconds) < len(known):
            return ""
        return f", about {format_seconds(sum(second or 0 for second in seconds))} left as it took last time"

    def _summary(self) -> "Table":
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD)
        table.add_column("stage", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("output", overflow="fold")
        total = 0.0
        for stage in self.stages:
            record = self.records.get(stage.name)
            seconds = (record.seconds if record else None) or 0.0
            total += seconds
            table.add_row(stage.name, format_seconds(seconds), str(stage.output(self.recipe)))
        table.add_section()
        table.add_row("all", format_seconds(total), "")
        return table


def _in(seconds: float | None) -> str:
    return "" if seconds is None else f" in {format_seconds(seconds)}"
