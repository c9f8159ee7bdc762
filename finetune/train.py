"""The training loop: a step, a validation, and when to save and stop."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from finetune import checkpoint
from finetune.batches import DataOrder, Indices, answer_tokens, collate, passes_of_rank
from finetune.chat import Encoded
from finetune.data import Examples
from meditron.config import FinetuneConfig
from meditron.errors import TrainingError
from meditron.measuring import Clock, peak_memory
from meditron.progress import Task
from meditron.runs import RunFolder
from meditron.stopping import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(kw_only=True)
class Job:
    """Everything that the loop works with."""

    config: FinetuneConfig
    """Settings."""
    accelerator: "Accelerator"
    """Processes, devices, precision."""
    model: torch.nn.Module
    """The prepared `AnswerLoss`."""
    optimizer: Any
    """The prepared AdamW."""
    train: Examples
    """Conversations to learn."""
    validation: dict[str, list[Encoded]]
    """Held-out conversations by file."""
    order: DataOrder
    """Which conversations make up each step."""
    total_steps: int
    """Steps of the whole run."""
    run: RunFolder
    """Where the log and the checkpoints go."""
    identity: dict[str, Any]
    """What a checkpoint must have in common with the run, see `meditron.checkpoints.newest`."""
    step: int = 0
    """Finished steps."""
    tokens: int = 0
    """Tokens seen, padding not counted."""
    validated: int = field(default=-1, init=False)
    """Step of the last validation."""

    def log(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - JSON values
        """Append a line to the run's log, on the main process."""
        if self.accelerator.is_main_process:
            self.run.log({"event": event, "step": self.step, **fields})


def learning_rate(step: int, total_steps: int, config: FinetuneConfig) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then a cosine to `min_lr` at the last."""
    warmup = round(config.warmup_fraction * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    share = (step - warmup) / max(total_steps - 1 - warmup, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * share))


def fit(job: Job, stop: StopRequest, task: Task) -> bool:
    """Train to the last step.

    Returns:
        True when it is reached; False when the run was asked to stop, with its state saved.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    config = job.config
    if job.step == 0:
        validate(job)
    while job.step < job.total_steps:
        record = train_step(job)
        job.log("step", **record)
        task.set(job.step, loss=record["loss"], lr=record["lr"])
        done = job.step == job.total_steps
        if done or job.step % config.validation_interval == 0:
            validate(job)
        save, end = _agree(job, stop)
        if done or save or end or job.step % config.checkpoint_interval == 0:
            save_checkpoint(job)
            if job.accelerator.is_main_process:
                stop.clear()
        if end and not done:
            return False
    return True


def _agree(job: Job, stop: StopRequest) -> tuple[bool, bool]:
    """(save, stop), the same on all processes: what any of them was asked for."""
    wishes = torch.tensor(stop.wants(), dtype=torch.float32, device=job.accelerator.device)
    save, end = job.accelerator.reduce(wishes, "sum").tolist()
    return save > 0, end > 0


def save_checkpoint(job: Job) -> None:
    """Save the state after `job.step` steps."""
    started = time.perf_counter()
    counts = {"step": job.step, "tokens": job.tokens}
    path = checkpoint.save(
        job.accelerator,
        job.run.checkpoints,
        counts,
        job.identity,
        job.config.keep_checkpoints,
        job.run.check_writer,
    )
    job.log("checkpoint", path=path.name, seconds=round(time.perf_counter() - started, 4))


def train_step(job: Job) -> dict[str, Any]:
    """One optimizer step over the global batch; returns the figures to log."""
    clock = Clock(job.accelerator.device)
    examples = job.train.encoded
    batch = job.order.step(job.step)
    learnt = answer_tokens([examples[i] for i in batch])
    lr = learning_rate(job.step, job.total_steps, job.config)
    for group in job.optimizer.param_groups:
        group["lr"] = lr
    accelerator = job.accelerator
    passes = [
        collate([examples[i] for i in piece])
        for piece in passes_of_rank(
            batch, job.config.micro_batch_size, accelerator.process_index, accelerator.num_processes
        )
    ]
    clock.lap("data")
    loss = _accumulate(job, passes, learnt)
    clock.lap("forward_backward")
    norm = _update(job, loss, batch)
    clock.lap("optimizer")
    tokens = sum(len(examples[i].ids) for i in batch)
    job.step, job.tokens = job.step + 1, job.tokens + tokens
    return {
        "loss": loss,
        "grad_norm": norm,
        "lr": lr,
        "tokens": job.tokens,
        "answer_tokens": learnt,
        "tokens_per_second": tokens / clock.total,
        "seconds": clock.laps,
        "memory_bytes": peak_memory(accelerator.device),
    }


def _accumulate(job: Job, passes: Sequence[tuple[torch.Tensor, torch.Tensor]], learnt: int) -> float:
    """Forward and backward of all passes; returns the mean loss of the step's learnt tokens.

    Each token weighs the same, whichever pass and process it is in: sums of losses are divided by the
    number of tokens of the whole step. The processes' gradients are averaged, hence the factor.
    """
    accelerator = job.accelerator
    total = torch.zeros((), device=accelerator.device)
    for index, (ids_BS, labels_BS) in enumerate(passes):
        last = index == len(passes) - 1
        with nullcontext() if last else accelerator.no_sync(job.model):
            loss = job.model(ids_BS.to(accelerator.device), labels_BS.to(accelerator.device)) / learnt
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    return float(accelerator.reduce(total, "sum"))


def _update(job: Job, loss: float, batch: Indices) -> float:
    """Clip, step, reset; returns the gradient norm before clipping."""
    limit = job.config.clip_grad or math.inf
    norm = float(job.accelerator.clip_grad_norm_(job.model.parameters(), limit))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        named = ", ".join(job.train.where[i] for i in batch[:3])
        raise TrainingError(
            f"finetune: step {job.step + 1} has loss {loss} and gradient norm {norm}; lower finetune.lr, or "
            f"look at its {len(batch)} conversations ({named}, ...)"
        )
    job.optimizer.step()
    job.optimizer.zero_grad()
    return norm


def validate(job: Job) -> None:
    """Log the mean loss of the answers in each validation file; once a step at most."""
    if job.validated == job.step:
        return
    job.validated = job.step
    job.model.eval()
    for source, examples in job.validation.items():
        loss = _mean_loss(job, examples)
        tokens = answer_tokens(examples)
        job.log("validation", source=source, loss=loss, perplexity=_exp(loss), tokens=tokens)
    job.model.train()


@torch.no_grad()
def _mean_loss(job: Job, examples: list[Encoded]) -> float:
    accelerator = job.accelerator
    by_length = torch.tensor([-len(example.ids) for example in examples]).argsort(stable=True).numpy()
    total = torch.zeros((), dtype=torch.float64)
    for piece in passes_of_rank(
        by_length, job.config.micro_batch_size, accelerator.process_index, accelerator.num_processes
    ):
        ids_BS, labels_BS = collate([examples[i] for i in piece])
        loss = job.model(ids_BS.to(accelerator.device), labels_BS.to(accelerator.device))
        total += loss.double().cpu()
    total = accelerator.reduce(total.to(accelerator.device), "sum")
    return float(total) / answer_tokens(examples)


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))
