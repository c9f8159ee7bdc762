"""`reset_attention_mask`: documents packed into one sample are learnt from as if each had one of its own."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from meditron.config import PretrainConfig, Recipe
from meditron.config.pretrain import DeepSpeedConfig
from meditron.models.architecture import read_architecture
from meditron.models.megatron.parallel import alone
from meditron.models.safetensors_folder import FolderWeights
from pretrain.data import IGNORE, TrainingData, ValidationData, labels_of, open_shard
from pretrain.engines import StepResult
from pretrain.main import main
from tests.pretrain.test_trainer import losses, validations

LENGTHS = (7, 1, 12, 4)
NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed"
)


def packed() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and document numbers of one sample of four documents, each [1, 1, S]."""
    tokens = torch.randint(333, (sum(LENGTHS),), generator=torch.Generator().manual_seed(3))
    documents = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    labels = F.pad(torch.from_numpy(labels_of(tokens.numpy(), documents.numpy())), (0, 1), value=IGNORE)
    return tokens[None, None], labels[None, None], documents[None, None]


def separate() -> tuple[Tensor, Tensor]:
    """The same documents, one in each of four samples of one micro-batch, filled up: [1, 4, max(LENGTHS)]."""
    tokens, labels, _ = packed()
    inputs, targets = torch.zeros(2, len(LENGTHS), max(LENGTHS), dtype=torch.int64)
    targets.fill_(IGNORE)
    for row, (document, label) in enumerate(
        zip(tokens[0, 0].split(LENGTHS), labels[0, 0].split(LENGTHS), strict=True)
    ):
        inputs[row, : len(document)], targets[row, : len(document)] = document, label
    return inputs[None], targets[None]


def make_engine(kind: str, base: Path) -> Any:
    settings: dict[str, Any] = {"sequence_length": 24, "global_batch_size": 1, "precision": "fp32"}
    architecture = read_architecture(base)
    if kind == "deepspeed":
        from pretrain.engines.deepspeed import DeepSpeedEngine

        zero = DeepSpeedConfig(zero_stage=1)
        return DeepSpeedEngine(architecture, PretrainConfig(engine="deepspeed", deepspeed=zero, **settings))
    from pretrain.engines.megatron import MegatronEngine

    return MegatronEngine(architecture, PretrainConfig(**settings), 16)


def one_step(engine: Any, base: Path, *tensors: Tensor) -> StepResult:
    """Loss and gradient norm of the first step from the base model."""
    engine.build(FolderWeights(base))
    return engine.update(engine.forward_backward(*tensors), 0.0)


@pytest.mark.parametrize("kind", ["megatron", pytest.param("deepspeed", marks=NEEDS_DEEPSPEED)])
def test_packed_documents_have_the_loss_and_gradients_of_separate_ones(kind: str, base: Path) -> None:
    if kind == "deepspeed":  # whose groups of an earlier start in the same process must not stay
        with alone():
            make_engine(kind, base).build(FolderWeights(base))
    with alone():
        together = one_step(make_engine(kind, base), base, *packed())
        alone_ = one_step(make_engine(kind, base), base, *separate())
        mixed = one_step(make_engine(kind, base), base, *packed()[:2])
    assert together.loss == pytest.approx(alone_.loss, abs=1e-5)
    assert together.grad_norm == pytest.approx(alone_.grad_norm, rel=1e-4)
    assert abs(mixed.loss - alone_.loss) > 1e-3, "without the mask, tokens see other documents"


def apart(model: LlamaForCausalLM, *row: np.ndarray) -> tuple[float, int]:
    """Sum of the losses and number of predictions of a row, each document put through the model alone.

    Args:
        model: that scores.
        row: inputs, labels and document numbers, each [S].
    """
    total, count = 0.0, 0
    cuts = np.flatnonzero(np.diff(row[2])) + 1
    for inputs, labels in zip(*(np.split(part, cuts) for part in row[:2]), strict=True):
        with torch.no_grad():
            logits = model(torch.from_numpy(inputs)[None]).logits[0]
        wanted = torch.from_numpy(labels)
        total += F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="sum").item()
        count += int((wanted != IGNORE).sum())
    return total, count


def mean_apart(model: LlamaForCausalLM, *rows: np.ndarray) -> float:
    """Mean loss of rows [B, S]."""
    total, count = map(sum, zip(*(apart(model, *row) for row in zip(*rows, strict=True)), strict=True))
    return total / count


def test_a_run_has_the_loss_of_its_documents_one_by_one(recipe: Recipe) -> None:
    """From the setting to the log: the first step and the first validation."""
    config = recipe.pretrain
    config.reset_attention_mask, config.train_steps, config.optimizer.warmup_steps = True, 1, 0
    assert main(recipe) == 0
    model = LlamaForCausalLM.from_pretrained(recipe.model.base)
    shards = Path(str(config.shards))
    batch = TrainingData(shards, config.weights, 24, recipe.seed).batch(0, 4, 4, 0, 1)
    tokens, documents = batch.tokens[0], batch.documents[0]
    ends = documents[:, 1:] != documents[:, :-1]
    assert ends.any(), "no sample holds two documents"
    labels = np.where(ends, IGNORE, tokens[:, 1:])
    expected = mean_apart(model, tokens[:, :-1], labels, documents[:, :-1])
    assert losses(recipe) == pytest.approx([expected], abs=1e-4)
    as_one = mean_apart(model, tokens[:, :-1], labels, np.zeros_like(labels))
    assert abs(as_one - expected) > 1e-3
    held_out = ValidationData(open_shard(shards / "validation" / "papers"), 24, 10**6, True)
    windows = held_out.batch(1, 0, 1)
    expected = mean_apart(model, *(part[:, 0] for part in windows))
    assert validations(recipe)[0, "papers"] == pytest.approx(expected, abs=1e-4)
