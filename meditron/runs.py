"""A run folder: what a training stage leaves while it works.

run.json      state, times, verb, versions
config.yaml   the resolved recipe
log.jsonl     one JSON object a line, append-only
checkpoints/  whole checkpoints
triggers/     files an operator drops: `save`, `exit`
starts/       a file for each start of the run, and a lock: only the last start may write
"""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from meditron.errors import InputError
from meditron.fencing import Fence
from meditron.files import atomic_write_json, atomic_write_text, disk_errors
from meditron.manifest import config_hash, git_revision, package_versions

State = Literal["running", "finished", "stopped", "failed"]


class RunFolder:
    """The run folder at `path`; nothing is written before `create`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fence: Fence | None = None

    @contextmanager
    def sole_writer(self, is_main: bool = True) -> Iterator[None]:
        """Take the folder over from an earlier start of the run, on the process that writes to it."""
        if not is_main:
            yield
            return
        self._fence = Fence.take(self.path)
        try:
            yield
        finally:
            self._fence.release()

    def check_writer(self) -> None:
        """Refuse to write once a later start has taken the folder over.

        Raises:
            TakenOverError: one has.
        """
        if self._fence is not None:
            self._fence.check()

    @property
    def checkpoints(self) -> Path:
        """Where the whole checkpoints are."""
        return self.path / "checkpoints"

    @property
    def log_path(self) -> Path:
        """The append-only JSON-lines log."""
        return self.path / "log.jsonl"

    def create(self, config: Mapping[str, Any], verb: str) -> Self:
        """Make the folder, or reopen it: record the configuration and that it is running."""
        for folder in (self.checkpoints, self.path / "triggers"):
            folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.path / "config.yaml", yaml.safe_dump(_plain(config), sort_keys=False))
        self._end_cut_line()
        starts = [*self.info().get("starts", []), _now()]
        atomic_write_json(
            self.path / "run.json",
            {
                "verb": verb,
                "state": "running",
                "starts": starts,
                "config_hash": config_hash(config),
                "host": platform.node(),
                "packages": package_versions(),
                "git_revision": git_revision(),
            },
        )
        return self

    def _end_cut_line(self) -> None:
        """End a line that a kill cut short, so that the next one starts on its own."""
        if not self.log_path.exists() or self.log_path.stat().st_size == 0:
            return
        with open(self.log_path, "rb+") as handle:
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":
                handle.write(b"\n")

    def info(self) -> dict[str, Any]:
        """The content of run.json; empty before the first start."""
        path = self.path / "run.json"
        try:
            info = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise InputError(f"{path}: not readable as JSON ({error}); remove it and start again") from error
        assert isinstance(info, dict)
        return info

    def mark(self, state: State, **fields: Any) -> None:  # noqa: ANN401 - JSON values
        """Record how the run stands, with any further fields."""
        self.check_writer()
        info = {**self.info(), "state": state, "ended": _now(), **fields}
        atomic_write_json(self.path / "run.json", info)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line; a single write, so that a killed run leaves at most one cut line."""
        self.check_writer()
        line = json.dumps({"time": round(time.time(), 3), **record}) + "\n"
        with disk_errors(self.log_path):
            descriptor = os.open(self.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)

    def read_log(self) -> list[dict[str, Any]]:
        """All whole lines of the log; a line that a kill cut short is left out."""
        if not self.log_path.exists():
            return []
        records = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue  # the one line that a kill may cut; the resumed run logs that step again
        return records


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON-like tree
    return json.loads(json.dumps(value, default=str))
