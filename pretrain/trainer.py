"""The training loop: steps, validations, checkpoints, and what to do when numbers are not finite."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from meditron import checkpoints
from meditron.config.pretrain import PretrainConfig
from meditron.errors import TrainingError
from meditron.manifest import Manifest
from meditron.measuring import Clock, peak_memory
from meditron.models.architecture import Architecture
from meditron.runs import RunFolder
from meditron.stopping import StopRequest
from pretrain import metrics
from pretrain.data import IGNORE, Batch, Tokens, TrainingData, ValidationData, labels_of
from pretrain.engines import Engine, StepResult
from pretrain.saving import Saver
from pretrain.schedule import learning_rate
from pretrain.sinks import Sink
from pretrain.spikes import robust_zscore
from pretrain.stragglers import Stragglers
from pretrain.watchdog import Watchdog


@dataclass(kw_only=True)
class State:
    """Where the run stands; a checkpoint carries it beside the weights.

    No random state is among it: the data order is counted, and a Llama has no dropout.
    """

    step: int = 0
    """Finished steps."""
    sample: int = 0
    """Next sample of the data order."""
    tokens: int = 0
    """Tokens learnt from."""
    skipped_in_row: int = 0
    """Steps just skipped because a number was not finite."""
    rollbacks: int = 0
    """Returns to a checkpoint so far."""
    recent_losses: list[float] = field(default_factory=list)
    """Of the last applied steps, for `pretrain.spikes`."""


@dataclass(kw_only=True)
class Trainer:
    """Everything that the loop works with."""

    config: PretrainConfig
    """Settings."""
    architecture: Architecture
    """The model, for FLOP."""
    engine: Engine
    """Model and optimizer."""
    train: TrainingData
    """Samples of every step."""
    validation: Mapping[str, ValidationData]
    """Held-out windows by source."""
    run: RunFolder
    """Where the log and the checkpoints go."""
    identity: dict[str, Any]
    """What a checkpoint must have in common with the run, see `meditron.checkpoints.newest`."""
    state: State = field(default_factory=State)
    """Progress."""
    sinks: Sequence[Sink] = ()
    """Get every record of the log, on the main process."""
    validated: int = field(default=-1, init=False)
    """Step of the last validation."""
    saver: Saver = field(init=False)
    """Writes the checkpoints."""
    stragglers: Stragglers = field(init=False)
    """Compares the processes."""
    watchdog: Watchdog = field(init=False)
    """Ends this process when it hangs."""
    peak_flops: float | None = field(init=False)
    """Of one device."""

    def __post_init__(self) -> None:
        self.stragglers = Stragglers(self.engine.device)
        self.peak_flops = metrics.peak_flops(self.config, self.engine.device)
        fault, report = self.config.fault, self.run.path / "logs" / f"hang-{dist.get_rank()}.txt"
        self.watchdog = Watchdog(
            fault.hang_factor, fault.hang_min_seconds, self.config.timeout_minutes * 60, report
        )
        self.saver = Saver(
            folder=self.run.checkpoints,
            config=self.config.checkpoint,
            identity=self.identity,
            extra={"architecture": self.architecture.to_hf(), "precision": self.config.precision},
            log=self.log,
            check_writer=self.run.check_writer,
        )

    @property
    def is_main(self) -> bool:
        """Whether this process writes the log."""
        return dist.get_rank() == 0

    def log(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - JSON values
        """Append a line to the run's log, on the main process, and hand it to the sinks."""
        if self.is_main:
            self.run.log({"event": event, "step": self.state.step, **fields})
            for sink in self.sinks:
                sink.log(event, self.state.step, fields)


def fit(trainer: Trainer, stop: StopRequest) -> bool:
    """Train to the last step.

    Returns:
        True when it is reached; False when the run was asked to stop, with its state saved.

    Raises:
        TrainingError: losses stayed not finite after as many returns to a checkpoint as are allowed.
        DiskFullError: a checkpoint does not fit.
    """
    config, state = trainer.config, trainer.state
    with trainer.watchdog as watchdog:
        if state.step == 0:
            validate(trainer)
        while state.step < config.train_steps:
            record = train_step(trainer)
            watchdog.step_ended()
            _log_step(trainer, record)
            with watchdog.paused():
                if _must_roll_back(trainer, record):
                    roll_back(trainer)
                elif not _between_steps(trainer, stop):
                    break
        with watchdog.paused():
            trainer.saver.finish()
    return state.step == config.train_steps


def _log_step(trainer: Trainer, record: dict[str, Any]) -> None:
    trainer.log("step", **record)
    step, interval = trainer.state.step, trainer.config.fault.straggler_interval
    if interval and dist.get_world_size() > 1:
        trainer.stragglers.add(record["seconds"])
        if step % interval == 0:
            trainer.log("stragglers", phases=trainer.stragglers.report())


def _must_roll_back(trainer: Trainer, record: dict[str, Any]) -> bool:
    fault = trainer.config.fault
    leapt = fault.loss_spike == "rollback" and "loss_spike" in record
    return leapt or trainer.state.skipped_in_row >= fault.max_skipped_in_row


def _between_steps(trainer: Trainer, stop: StopRequest) -> bool:
    """Validate and save where it is time to; False when the run was asked to stop here."""
    config, step = trainer.config, trainer.state.step
    done = step == config.train_steps
    if done or step % config.validation.interval == 0:
        validate(trainer)
    trainer.saver.poll(trainer.engine.device)
    save, end = _agree(trainer, stop)
    if done or save or end or step % config.checkpoint.interval == 0:
        trainer.saver.start(trainer.engine, step, asdict(trainer.state))
        if trainer.is_main:
            stop.clear()
    return not end


def _agree(trainer: Trainer, stop: StopRequest) -> tuple[bool, bool]:
    """(save, stop), the same on all processes: what any of them was asked for."""
    wishes = torch.tensor(stop.wants(), dtype=torch.float32, device=trainer.engine.device)
    dist.all_reduce(wishes)
    save, end = wishes.tolist()
    return save > 0, end > 0


def train_step(trainer: Trainer) -> dict[str, Any]:
    """One optimizer step over the global batch; returns the figures to log."""
    config, state, engine = trainer.config, trainer.state, trainer.engine
    clock = Clock(engine.device)
    batch = trainer.train.batch(
        state.sample,
        config.global_batch_size,
        config.micro_batch_size,
        engine.data_parallel_rank,
        config.parallel.data_parallel_size,
    )
    inputs, labels, documents = _tensors(batch, config.reset_attention_mask)
    tensors = (*trainer.architecture.insert(inputs, labels, IGNORE), documents)
    clock.lap("data")
    loss = engine.forward_backward(*tensors)
    clock.lap("forward_backward")
    zscore = robust_zscore(loss, state.recent_losses)
    leapt = config.fault.loss_spike != "off" and zscore > config.fault.loss_spike_zscore
    lr = learning_rate(state.step, config.train_steps, config.optimizer)
    result = engine.update(loss, lr, apply=not leapt or config.fault.loss_spike == "warn")
    clock.lap("optimizer")
    record: dict[str, Any] = {"loss": result.loss, "grad_norm": result.grad_norm, "lr": lr}
    record |= {"loss_spike": _json_number(zscore)} if leapt else {}
    record |= _advance(state, config, result)
    stall, trainer.saver.stall = trainer.saver.stall, 0.0
    counts = sorted(Counter(batch.sources).items())
    return record | {
        "tokens": state.tokens,
        **metrics.speed(trainer.architecture, config, clock.total, trainer.peak_flops),
        "seconds": {**clock.laps, "checkpoint": stall},
        "memory_bytes": peak_memory(engine.device),
        "sources": {name: count / len(batch.sources) for name, count in counts},
    }


def _advance(state: State, config: PretrainConfig, result: StepResult) -> dict[str, Any]:
    """Count a step; returns what is logged of one that was skipped."""
    first, state.sample = state.sample, state.sample + config.global_batch_size
    state.step += 1
    if result.applied:
        state.skipped_in_row = 0
        state.tokens += config.global_batch_size * config.sequence_length
        state.recent_losses = [*state.recent_losses, result.loss][-config.fault.loss_spike_window :]
        return {}
    state.skipped_in_row += 1
    numbers = {"loss": _json_number(result.loss), "grad_norm": _json_number(result.grad_norm)}
    return {"skipped": True, "samples": [first, state.sample], **numbers}


def _tensors(batch: Batch, reset_attention_mask: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs, labels and documents of a step, each [M, B, S]."""
    documents = batch.documents if reset_attention_mask else None
    inputs, labels = batch.tokens[..., :-1], labels_of(batch.tokens, documents)
    return _tensor(inputs), _tensor(labels), None if documents is None else _tensor(documents[..., :-1])


def _tensor(numbers: Tokens) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers))


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON knows no NaN


def roll_back(trainer: Trainer) -> None:
    """Return to the newest checkpoint, and leave out the samples since then.

    Raises:
        TrainingError: there is no checkpoint, or it was done too often.
    """
    config, state = trainer.config, trainer.state
    bad = f"losses or gradients of the samples up to {state.sample} are not finite, or leap"
    trainer.saver.finish()
    found = checkpoints.newest(trainer.run.checkpoints, trainer.identity, "pretrain")
    if found is None:
        raise TrainingError(f"pretrain: {bad} and there is no checkpoint yet; lower pretrain.optimizer.lr")
    if state.rollbacks >= config.fault.max_rollbacks:
        raise TrainingError(
            f"pretrain: {bad} after {state.rollbacks} returns to a checkpoint "
            "(pretrain.fault.max_rollbacks); see log.jsonl, and lower pretrain.optimizer.lr"
        )
    sample, rollbacks = state.sample, state.rollbacks + 1
    restore(trainer, *found)
    state.sample, state.rollbacks, state.skipped_in_row = sample, rollbacks, 0
    trainer.log("rollback", path=found[0].name, next_sample=sample)


def restore(trainer: Trainer, path: Path, manifest: Manifest) -> None:
    """Load a checkpoint: weights, optimizer, progress."""
    trainer.engine.load(path)
    for name, unset in asdict(State()).items():  # an older checkpoint may lack some
        setattr(trainer.state, name, type(unset)(manifest.counts.get(name, unset)))


def validate(trainer: Trainer) -> None:
    """Log loss and perplexity of each source's held-out text; once a step at most."""
    state, config = trainer.state, trainer.config
    if trainer.validated == state.step:
        return
    trainer.validated = state.step
    for source, data in trainer.validation.items():
        windows = data.batch(
            config.micro_batch_size, trainer.engine.data_parallel_rank, config.parallel.data_parallel_size
        )
        documents = _tensor(windows.documents) if config.reset_attention_mask else None
        pair = trainer.architecture.insert(_tensor(windows.inputs), _tensor(windows.labels), IGNORE)
        total, tokens = trainer.engine.eval_step(*pair, documents)
        loss = total / tokens
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        numbers = {name: _json_number(value) for name, value in found.items()}
        trainer.log("validation", source=source, **numbers, tokens=tokens)
        trainer.watchdog.goes_on()
