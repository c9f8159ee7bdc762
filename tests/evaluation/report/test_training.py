from pathlib import Path

import pytest

from evaluation.report.charts import training_plots
from evaluation.report.training import TrainingRun, read_run, replay, running_mean
from meditron.errors import InputError


def step(number: int, **fields: object) -> dict[str, object]:
    return {"event": "step", "step": number, "loss": float(number), **fields}


def run_of(*records: dict[str, object]) -> TrainingRun:
    return replay(TrainingRun(folder=Path("x"), info={}), records)


def test_of_a_step_done_twice_the_later_line_counts() -> None:
    run = run_of(step(1), step(2), step(2, loss=9.5), step(3))
    assert run.curve("loss") == [(1, 1.0), (2, 9.5), (3, 3.0)]
    assert run.repeated == 1


def test_a_resume_takes_back_what_was_lost() -> None:
    validation = {"event": "validation", "source": "a", "perplexity": 5.0}
    run = run_of(
        step(1),
        step(2),
        step(3),
        {**validation, "step": 3},
        {"event": "resume", "step": 1},
        step(2, loss=7.0),
    )
    assert run.curve("loss") == [(1, 1.0), (2, 7.0)]
    assert run.validation_curves() == {}
    assert run.repeated == 2


def test_a_rollback_keeps_the_skipped_steps_in_mind() -> None:
    bad = step(4, loss="nan", grad_norm="inf", skipped=True)
    run = run_of(step(3), bad, {"event": "rollback", "step": 2}, step(3, loss=1.0), step(4))
    assert run.skipped == [4]
    assert run.events["rollback"] == 1
    assert run.curve("loss") == [(3, 1.0), (4, 4.0)]


def test_numbers_that_are_none_are_left_out() -> None:
    run = run_of(step(1, mfu=None), step(2, mfu="x"), step(3, mfu=True), step(4, mfu=0.4))
    assert run.curve("mfu") == [(4, 0.4)]
    assert run.middle("grad_norm") is None


def test_the_first_step_does_not_count_for_the_speed() -> None:
    run = run_of(*(step(n, tokens_per_second=speed) for n, speed in ((1, 1.0), (2, 100.0), (3, 102.0))))
    assert run.middle("tokens_per_second") == 101


def test_phases_and_shares() -> None:
    run = run_of(
        step(1, seconds={"data": 1, "optimizer": 2.5}, sources={"a": 1.0}),
        step(2, seconds={"data": 2}, sources={"a": 0.5, "b": 0.5}),
    )
    assert run.phases() == {"data": 3, "optimizer": 2.5}
    assert run.shares() == {"a": 0.75, "b": 0.25}


def test_a_running_mean_starts_when_it_is_whole() -> None:
    assert running_mean([(1, 1.0), (2, 3.0), (3, 8.0)], 2) == [(2, 2.0), (3, 5.5)]


def test_a_cut_line_is_left_out_and_a_log_without_any_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"event": "step", "step": 1, "loss": 2.0}\n{"event": "st')
    assert read_run(tmp_path).last_step == 1
    log.write_bytes(b"\x00\xff\x00")
    with pytest.raises(InputError, match="holds no whole line of JSON"):
        read_run(tmp_path)


def test_the_plots_of_a_resumed_run(work: Path) -> None:
    run = read_run(work / "pretrain")
    plots = {plot.chart.title: plot for plot in training_plots(run, {"essays": "general"})}
    assert list(plots) == [
        "Training loss",
        "Perplexity on held-out text",
        "Learning rate",
        "Gradient norm",
        "Throughput",
    ]  # no MFU: no peak is known
    loss = plots["Training loss"]
    assert len(loss.marks) == 1
    assert "1 step was skipped" in loss.chart.note
    assert max(y for _, y in run.curve("loss")) < 5  # the steps that were lost had losses near 11
    dashed = [line.name for line in plots["Perplexity on held-out text"].lines if line.style == "dashed"]
    assert dashed == ["essays"]
