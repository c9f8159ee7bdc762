"""Where the figures of a run go besides its log: TensorBoard, wandb, trackio."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from meditron.config.pretrain import TrackerName
from meditron.errors import EnvironmentMissingError
from meditron.progress import console

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}


class Sink(Protocol):
    """Takes every record of the log, on the main process."""

    def log(self, event: str, step: int, fields: Mapping[str, Any]) -> None:
        """One record."""
        ...


class Tracker:
    """Hands the numbers of the log on to a service, which is left alone once it has failed.

    Args:
        name: of the service.
        write: takes numbers by name, and their step.
    """

    def __init__(self, name: str, write: Any) -> None:  # noqa: ANN401 - the services are not typed
        self._name, self._write = name, write

    def log(self, event: str, step: int, fields: Mapping[str, Any]) -> None:
        """Hand on a record that has numbers."""
        found = dict(numbers(event, fields))
        if self._write is None or not found:
            return
        try:
            self._write(found, step)
        except Exception as error:  # any: whatever a service does, training goes on
            self._write = None
            console().print(f"pretrain.trackers: {self._name} failed ({error}); it gets nothing more")


def numbers(event: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names such as `step/seconds/data` or `validation/papers/loss`, and their numbers."""
    prefix = f"{event}/{fields['source']}" if "source" in fields else event
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from numbers(f"{prefix}/{name}", value)
        elif isinstance(value, Real) and not isinstance(value, bool):
            yield f"{prefix}/{name}", float(value)


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse services whose packages are missing.

    Raises:
        EnvironmentMissingError: one is.
    """
    for name in names:
        try:
            importlib.import_module(_MODULES[name])
        except ImportError as error:
            raise EnvironmentMissingError(
                f"pretrain.trackers: {name} cannot be imported ({error}); run: pip install 'meditron[{name}]'"
            ) from error


@contextmanager
def open_trackers(
    names: Sequence[TrackerName], project: str, run_dir: Path, config: Mapping[str, Any]
) -> Iterator[list[Tracker]]:
    """The services of a run; a resumed run goes on in the same record."""
    with ExitStack() as stack:
        yield [Tracker(name, _OPEN[name](stack, project, run_dir.absolute(), config)) for name in names]


def _tensorboard(stack: ExitStack, project: str, run_dir: Path, config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    writer = importlib.import_module(_MODULES["tensorboard"]).SummaryWriter(str(run_dir / "tensorboard"))
    stack.callback(writer.close)

    def write(found: Mapping[str, float], step: int) -> None:
        for name, value in found.items():
            writer.add_scalar(name, value, step)

    return write


def _wandb(stack: ExitStack, project: str, run_dir: Path, config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    wandb = importlib.import_module("wandb")
    name = _name(run_dir)
    run = wandb.init(
        project=project, name=name, id=name, resume="allow", dir=str(run_dir), config=dict(config)
    )
    stack.callback(run.finish)
    run.define_metric("*", step_metric="step")  # wandb's own step may not go back, as a rollback does
    return lambda found, step: run.log({**found, "step": step})


def _trackio(stack: ExitStack, project: str, run_dir: Path, config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    trackio = importlib.import_module("trackio")
    trackio.init(project=project, name=_name(run_dir), resume="allow", config=dict(config))
    stack.callback(trackio.finish)
    return lambda found, step: trackio.log(dict(found), step=step)


_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}


def _name(run_dir: Path) -> str:
    """Last two parts of the path, such as `meditron-7b-pretrain`."""
    return "-".join(run_dir.parts[-2:])
