"""What a person watches: the live view, and the services that the log is handed to."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from meditron.config import Recipe
from meditron.errors import EnvironmentMissingError
from pretrain.live import View, bar, curve, title
from pretrain.main import main
from pretrain.sinks import Tracker, numbers, open_trackers, require_trackers
from tests.pretrain.test_trainer import losses

STEP: dict[str, Any] = {
    "loss": 2.345678,
    "grad_norm": 0.8,
    "lr": 2.9e-4,
    "tokens": 1_234_567_890_123,
    "tokens_per_second": 1_234_567.0,
    "flops_per_second": 5.5e15,
    "mfu": 0.412,
    "peak_flops": 989.4e12,
    "seconds": {"data": 0.01, "forward_backward": 12.3, "optimizer": 0.12, "checkpoint": 0.0},
    "memory_bytes": 61_000_000_000,
    "sources": {"papers": 0.75, "replay": 0.25},
}


def shown(view: View) -> list[str]:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text().splitlines()


def test_the_view_fits_eighty_columns_and_shows_the_last_figures() -> None:
    view = View("pretrain llama2-7b   megatron, TP4 x DP16, bf16", 14250)
    assert "the first step is on its way" in "".join(shown(view))
    view.log("validation", 0, {"source": "papers", "loss": 2.0, "perplexity": 7.389, "tokens": 10})
    for step in range(1, 301):
        view.log("step", step, {**STEP, "loss": 5.0 - step / 100})
    view.log("checkpoint", 300, {"path": "step_00000300", "seconds": 4.0})
    lines = shown(view)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in ("300/14,250 (2%)", "left", "█▇", "lr 0.00029", "1,234,567 tokens/s", "MFU 41.2% of 989.4"):
        assert part in text, part
    for part in (
        "forward+backward 12.3  optimizer 0.12  checkpoint 0",
        "61.00 GB",
        "perplexity",
        "papers 7.39",
        "step 300: checkpoint step_00000300",
    ):
        assert part in text, part


def test_what_is_not_finite_or_unknown_is_shown_too() -> None:
    view = View("t", 10)
    view.log("step", 1, {**STEP, "loss": "nan", "grad_norm": "inf", "mfu": None, "skipped": True})
    text = "\n".join(shown(view))
    assert "nan" in text
    assert "set peak_flops" in text
    assert "step 1: skipped" in text


def test_bars_and_curves() -> None:
    assert bar(0.5, 4) == "━━╌╌"
    assert curve([], 5) == ""
    assert curve([1.0, 1.0], 5) == "▁▁"
    assert curve([8.0, 1.0], 5) == "█▁"
    assert curve([float(n) for n in range(800)], 8) == "▁▂▃▄▅▆▇█"


def test_the_title_names_the_layout(recipe: Recipe) -> None:
    assert title(recipe).endswith("megatron, one process, fp32")
    recipe.pretrain.parallel.tensor_model_parallel_size = 2
    recipe.pretrain.parallel.data_parallel_size = 4
    assert "TP2 x DP4" in title(recipe)


def test_the_numbers_of_a_record() -> None:
    assert dict(numbers("step", {"loss": 2.0, "skipped": True, "seconds": {"data": 1}, "path": "x"})) == {
        "step/loss": 2.0,
        "step/seconds/data": 1.0,
    }
    assert dict(numbers("validation", {"source": "papers", "loss": 2.0})) == {"validation/papers/loss": 2.0}


class Service:
    """Stands for wandb and trackio, of which it has what is used."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init(self, **settings: Any) -> "Service":
        self.calls.append(settings)
        return self

    def define_metric(self, name: str, **settings: Any) -> None:
        self.calls.append((name, settings))

    def log(self, found: dict[str, float], step: int | None = None) -> None:
        self.calls.append((found, step))

    def finish(self) -> None:
        self.calls.append("finished")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_the_numbers_of_a_run(
    name: Any, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service()
    monkeypatch.setitem(sys.modules, name, service)
    recipe.pretrain.trackers = [name]
    recipe.pretrain.train_steps = 4
    assert main(recipe) == 0
    settings, *calls = service.calls
    assert settings["name"] == "-".join(Path(str(recipe.pretrain.run_dir)).parts[-2:])
    assert settings["config"]["pretrain"]["train_steps"] == 4
    got = [call[0]["step/loss"] for call in calls if "step/loss" in call[0]]
    assert got == losses(recipe)
    assert calls[-1] == "finished"


def test_tensorboard_gets_a_scalar_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(add_scalar=lambda *row: written.append(row), close=lambda: None)
    module = SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)  # type: ignore[arg-type]
    with open_trackers(["tensorboard"], "p", tmp_path, {}) as (tracker,):
        tracker.log("step", 3, {"loss": 2.0, "seconds": {"data": 0.5}})
    assert written == [("step/loss", 2.0, 3), ("step/seconds/data", 0.5, 3)]


def test_tensorboard_itself(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_trackers(["tensorboard"], "p", tmp_path, {}) as (tracker,):
        tracker.log("step", 3, {"loss": 2.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("step/loss")
    assert [(event.step, event.value) for event in events] == [(3, 2.0)]


def test_a_service_that_fails_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    calls = []

    def fail(found: dict[str, float], step: int) -> None:
        calls.append(step)
        raise ConnectionError("no network")

    tracker = Tracker("wandb", fail)
    for step in (1, 2):
        tracker.log("step", step, {"loss": 1.0})
    assert calls == [1]
    assert "wandb failed (no network); it gets nothing more" in " ".join(capfd.readouterr().err.split())


def test_a_service_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(EnvironmentMissingError, match=r"run: pip install 'meditron\[trackio\]'"):
        require_trackers(["trackio"])
