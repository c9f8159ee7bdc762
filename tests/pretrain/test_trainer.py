"""Pretraining on one process: against a plain loop, resumed, rolled back, exported; what is refused."""

import hashlib
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from meditron.checkpoints import checkpoint_path
from meditron.config import Recipe
from meditron.config.pretrain import ParallelConfig
from meditron.errors import (
    CheckpointError,
    ConfigError,
    DiskFullError,
    ManifestError,
    ParityError,
    TrainingError,
)
from meditron.manifest import read_manifest
from meditron.models import exporting, parity
from meditron.models.architecture import from_hf
from meditron.models.options.base import parse_options, settings_of
from meditron.models.safetensors_folder import FolderWeights
from meditron.models.stored import KINDS, TrainingState, open_state
from meditron.runs import RunFolder
from pretrain import trainer as trainer_module
from pretrain.data import TrainingData
from pretrain.engines.megatron import MegatronEngine
from pretrain.main import main
from pretrain.schedule import learning_rate
from tests.pretrain.conftest import leave, write_base


def steps(recipe: Recipe) -> list[dict[str, Any]]:
    """One record a step, the last where a resumed run did a step again."""
    records = RunFolder(str(recipe.pretrain.run_dir)).read_log()
    return list({r["step"]: r for r in records if r["event"] == "step"}.values())


def losses(recipe: Recipe) -> list[float]:
    return [record["loss"] for record in steps(recipe)]


def validations(recipe: Recipe) -> dict[tuple[int, str], float]:
    records = RunFolder(str(recipe.pretrain.run_dir)).read_log()
    return {(r["step"], r["source"]): r["loss"] for r in records if r["event"] == "validation"}


def file_hashes(recipe: Recipe, step: int) -> dict[str, str]:
    """SHA-256 of the weights and moments in a checkpoint; their order in its files is not its concern."""
    stored = read_state(recipe, step)
    return {
        f"{kind}/{name}": hashlib.sha256(stored.read(kind, name).contiguous().numpy()).hexdigest()
        for name in stored.names()
        for kind in KINDS
    }


def read_state(recipe: Recipe, step: int) -> TrainingState:
    folder = checkpoint_path(RunFolder(str(recipe.pretrain.run_dir)).checkpoints, step)
    manifest = read_manifest(folder, kind="checkpoint")
    return open_state(folder, from_hf(dict(manifest.extra["architecture"]), str(folder)))


def plain_loop(recipe: Recipe) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of the same training with a Hugging Face model and torch's AdamW alone."""
    config = recipe.pretrain
    model = LlamaForCausalLM.from_pretrained(recipe.model.base)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-5)
    data = TrainingData(Path(str(config.shards)), config.weights, config.sequence_length, recipe.seed)
    found, grad_norms = [], []
    for step in range(config.train_steps):
        tokens = torch.from_numpy(data.batch(step * 4, 4, 4, 0, 1)[0][0])
        logits = model(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        grad_norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.train_steps, config.optimizer)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found, grad_norms


def test_it_equals_a_plain_loop_and_is_exported(recipe: Recipe, tmp_path: Path) -> None:
    assert main(recipe) == 0
    expected, grad_norms = plain_loop(recipe)
    assert losses(recipe) == pytest.approx(expected, abs=1e-4)
    assert [record["grad_norm"] for record in steps(recipe)] == pytest.approx(grad_norms, abs=1e-3)
    assert losses(recipe)[-1] < losses(recipe)[0] - 1  # it learns
    first = steps(recipe)[0]
    assert first["sources"] == {"papers": 0.75, "replay": 0.25}
    assert first["tokens"] == 4 * 24
    assert first["flops_per_second"] / first["tokens_per_second"] == pytest.approx(
        6 * (333 * 32 + 4 * (32 * 8 * 12 + 3 * 32 * 80 + 2 * 32) + 32) + 6 * 4 * 24 * 32
    )
    checkpoints = sorted(p.name for p in RunFolder(str(recipe.pretrain.run_dir)).checkpoints.iterdir())
    assert checkpoints == ["step_00000007", "step_00000014", "step_00000020"]
    recipe.model.parity_check = True
    exporting.main(recipe)
    check_export(recipe)


def check_export(recipe: Recipe) -> None:
    folder = Path(str(recipe.export.output))
    manifest = read_manifest(folder, kind="model", check_files="full")
    assert manifest.counts["step"] == 20
    assert manifest.extra["max_logit_difference"] <= 1e-4
    assert manifest.licenses == {"papers": "CC-BY-4.0"}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is LlamaForCausalLM
    assert AutoTokenizer.from_pretrained(folder)("HbA1c").input_ids
    assert model.generation_config.eos_token_id == 1
    # The exported model has the loss that the run logged for its last validation.
    from pretrain.data import IGNORE, ValidationData, open_shard

    data = ValidationData(open_shard(Path(str(recipe.pretrain.shards)) / "validation" / "papers"), 24, 10**6)
    inputs, labels = (torch.from_numpy(part[:, 0]) for part in data.batch(1, 0, 1)[:2])
    with torch.no_grad():
        logits = model(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
    assert loss.item() == pytest.approx(validations(recipe)[20, "papers"], abs=1e-4)


def test_a_killed_run_goes_on_bitwise(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(recipe) == 0
    whole, hashes = losses(recipe), file_hashes(recipe, 20)
    recipe.pretrain.run_dir = str(tmp_path / "killed")

    class KilledError(Exception):
        pass

    def killed(self: MegatronEngine, loss: float, lr: float, **how: bool) -> Any:
        calls.append(lr)
        if len(calls) == 11:
            raise KilledError
        return update(self, loss, lr, **how)

    calls: list[float] = []
    update = MegatronEngine.update
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(MegatronEngine, "update", killed)
        main(recipe)
    leave()
    assert main(recipe) == 0
    events = [r for r in RunFolder(str(tmp_path / "killed")).read_log() if r["event"] == "resume"]
    assert [r["path"] for r in events] == ["step_00000007"]
    assert losses(recipe) == whole
    assert file_hashes(recipe, 20) == hashes


def test_a_signal_saves_and_a_second_start_goes_on(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    step = trainer_module.train_step

    def signalled(trainer: trainer_module.Trainer) -> dict[str, Any]:
        record = step(trainer)
        if trainer.state.step == 5:
            os.kill(os.getpid(), signal.SIGUSR2)
        return record

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "train_step", signalled)
        assert main(recipe) == 75
    run = RunFolder(str(recipe.pretrain.run_dir))
    assert (run.info()["state"], run.info()["step"]) == ("stopped", 5)
    assert main(recipe) == 0
    assert run.info()["state"] == "finished"
    assert len(steps(recipe)) == 20


def test_trigger_files(recipe: Recipe) -> None:
    triggers = Path(str(recipe.pretrain.run_dir)) / "triggers"
    triggers.mkdir(parents=True)
    (triggers / "save").touch()
    (triggers / "exit").touch()
    assert main(recipe) == 75
    assert not list(triggers.iterdir())
    assert (RunFolder(str(recipe.pretrain.run_dir)).checkpoints / "step_00000001").is_dir()


def test_a_finished_run_does_nothing_more(recipe: Recipe) -> None:
    recipe.pretrain.train_steps = 3
    recipe.pretrain.optimizer.warmup_steps = 0
    assert main(recipe) == 0
    log = RunFolder(str(recipe.pretrain.run_dir)).read_log()
    assert main(recipe) == 0
    added = RunFolder(str(recipe.pretrain.run_dir)).read_log()[len(log) :]
    assert [record["event"] for record in added] == ["resume"]


def spoil(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Let the steps that begin at the samples `bad` have a loss that is no number."""
    forward_backward = MegatronEngine.forward_backward
    batch = TrainingData.batch
    place = [0]

    def remember(self: TrainingData, start: int, *rest: int) -> Any:
        place[0] = start
        return batch(self, start, *rest)

    def spoiled(self: MegatronEngine, *tensors: torch.Tensor) -> float:
        loss = forward_backward(self, *tensors)
        return math.nan if place[0] in bad else loss

    monkeypatch.setattr(TrainingData, "batch", remember)
    monkeypatch.setattr(MegatronEngine, "forward_backward", spoiled)


def test_a_step_that_is_not_finite_is_skipped(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {20})
    assert main(recipe) == 0
    bad = [record for record in steps(recipe) if record.get("skipped")]
    assert [(r["step"], r["samples"], r["loss"]) for r in bad] == [(6, [20, 24], "nan")]
    assert steps(recipe)[-1]["tokens"] == 19 * 4 * 24


def test_many_in_a_row_go_back_and_leave_the_data_out(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, set(range(40, 60)))
    assert main(recipe) == 0
    log = RunFolder(str(recipe.pretrain.run_dir)).read_log()
    rollbacks = [r for r in log if r["event"] == "rollback"]
    assert [(r["step"], r["path"], r["next_sample"]) for r in rollbacks] == [(7, "step_00000007", 52)]
    assert [r["samples"][0] for r in log if r.get("skipped")] == [40, 44, 48, 52, 56]
    assert steps(recipe)[-1]["tokens"] == (20 - 2) * 4 * 24


def test_it_gives_up_when_nothing_helps(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, set(range(40, 400)))
    with pytest.raises(TrainingError, match=r"after 3 returns to a checkpoint"):
        main(recipe)
    leave()
    assert RunFolder(str(recipe.pretrain.run_dir)).info()["state"] == "failed"


def test_no_checkpoint_to_go_back_to(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, set(range(400)))
    with pytest.raises(TrainingError, match=r"there is no checkpoint yet; lower pretrain.optimizer.lr"):
        main(recipe)
    leave()


def damaged(recipe: Recipe) -> Path:
    """The newest of two checkpoints, one bit of it flipped."""
    recipe.pretrain.train_steps, recipe.pretrain.checkpoint.interval = 4, 2
    assert main(recipe) == 0
    newest = RunFolder(str(recipe.pretrain.run_dir)).checkpoints / "step_00000004"
    file = next(newest.glob("__0_0.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return newest


def test_a_damaged_checkpoint_is_named_and_skipped(recipe: Recipe, capfd: pytest.CaptureFixture[str]) -> None:
    damaged(recipe)
    assert main(recipe) == 0
    assert "__0_0.distcp: its SHA-256 differs from the manifest" in " ".join(capfd.readouterr().err.split())
    resumed = [r for r in RunFolder(str(recipe.pretrain.run_dir)).read_log() if r["event"] == "resume"]
    assert resumed[-1]["path"] == "step_00000002"


def test_export_names_a_step_that_is_damaged_or_absent(recipe: Recipe) -> None:
    with pytest.raises(CheckpointError, match=r"holds no whole checkpoint; run `meditron pretrain` first"):
        exporting.main(recipe)
    damaged(recipe)
    recipe.export.step = 4
    with pytest.raises(CheckpointError, match=r"export.step: .*SHA-256 differs"):
        exporting.main(recipe)
    recipe.export.step = 3
    with pytest.raises(CheckpointError, match=r"step_00000003: does not exist"):
        exporting.main(recipe)
    recipe.export.step = None
    exporting.main(recipe)
    assert read_manifest(str(recipe.export.output), kind="model").counts["step"] == 2


def test_the_gate_stops_a_wrong_export(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.pretrain.train_steps = 1
    recipe.pretrain.optimizer.warmup_steps = 0
    assert main(recipe) == 0
    recipe.model.parity_check = True
    rows = FolderWeights.rows

    def wrong(self: FolderWeights, name: str, start: int, stop: int) -> torch.Tensor:
        tensor = rows(self, name, start, stop)
        return tensor * 1.01 if "down_proj" in name else tensor

    monkeypatch.setattr(FolderWeights, "rows", wrong)
    with pytest.raises(ParityError, match=r"logits of the Hugging Face and the Megatron form differ by"):
        exporting.main(recipe)
    assert not Path(str(recipe.export.output)).exists()


def test_a_disk_that_is_full_while_saving(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.pretrain.train_steps, recipe.pretrain.checkpoint.interval = 2, 1
    save = MegatronEngine.save

    def full(self: MegatronEngine, folder: Path, *, background: bool) -> Any:
        if folder.name.startswith(".step_00000002"):
            (folder / "half.distcp").write_bytes(b"half")
            raise DiskFullError(f"{folder}: the disk is full")
        return save(self, folder, background=background)

    with monkeypatch.context() as patch, pytest.raises(DiskFullError):
        patch.setattr(MegatronEngine, "save", full)
        main(recipe)
    leave()
    left = sorted(p.name for p in RunFolder(str(recipe.pretrain.run_dir)).checkpoints.iterdir())
    assert left == ["step_00000001"]
    assert main(recipe) == 0


def test_other_settings_are_refused_on_resuming(recipe: Recipe) -> None:
    recipe.pretrain.train_steps = 2
    recipe.pretrain.optimizer.warmup_steps = 0
    assert main(recipe) == 0
    recipe.pretrain.sequence_length = 16
    with pytest.raises(CheckpointError, match=r"another value of pretrain.sequence_length \(24, now 16\)"):
        main(recipe)
    leave()


def test_a_flipped_byte_of_a_shard_is_refused(recipe: Recipe, shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copied"
    shutil.copytree(shards, copy)
    content = bytearray((copy / "train" / "papers.bin").read_bytes())
    content[11] ^= 4
    (copy / "train" / "papers.bin").write_bytes(content)
    recipe.pretrain.shards = str(copy)
    with pytest.raises(ManifestError, match=r"papers.bin: its SHA-256 differs"):
        main(recipe)
    leave()


def test_what_does_not_fit_is_refused_before_anything_starts(recipe: Recipe, tmp_path: Path) -> None:
    recipe.pretrain.parallel.tensor_model_parallel_size = 3
    with pytest.raises(ConfigError, match=r"tensor_model_parallel_size: 3 does not divide .* heads \(4\)"):
        main(recipe)
    recipe.pretrain.parallel.tensor_model_parallel_size = 1
    recipe.pretrain.parallel.pipeline_model_parallel_size = 3
    with pytest.raises(ConfigError, match=r"pipeline_model_parallel_size: 3 does not divide .* layers \(4\)"):
        main(recipe)
    recipe.pretrain.parallel.pipeline_model_parallel_size = 1
    recipe.pretrain.parallel = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
    recipe.pretrain.sequence_length = 23
    with pytest.raises(ConfigError, match=r"sequence_length: 23 must be a multiple of .*parallel_size \(2\)"):
        main(recipe)
    recipe.model.options = settings_of(parse_options({"landmark": {"block_size": 10, "window": 110}}))
    with pytest.raises(ConfigError, match=r"sequence_length: 23 \(with what .* options insert 25\) must be"):
        main(recipe)
    recipe.model.options = {}
    recipe.pretrain.parallel = ParallelConfig()
    recipe.model.base = str(write_base(tmp_path, vocab_size=300))
    with pytest.raises(ConfigError, match=r"embedding has 300 rows, the tokenizer of the shards 333 ids"):
        main(recipe)
    recipe.model.base = "nowhere"
    with pytest.raises(ConfigError, match=r"'nowhere' is neither a folder nor a preset"):
        main(recipe)
    recipe.pretrain.shards = str(tmp_path / "none")
    recipe.model.base = "tiny"
    with pytest.raises(ManifestError, match=r"none: does not exist; run the stage that makes it"):
        main(recipe)


def test_started_as_another_number_of_processes(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"context x data = 1, but 4 processes were started"):
        main(recipe)


def test_recomputing_changes_nothing_and_bf16_stays_near(recipe: Recipe, tmp_path: Path) -> None:
    recipe.pretrain.train_steps = 6
    assert main(recipe) == 0
    plain = losses(recipe)
    recipe.pretrain.recompute = "full"
    recipe.pretrain.run_dir = str(tmp_path / "recomputed")
    assert main(recipe) == 0
    assert losses(recipe) == plain
    recipe.pretrain.precision = "bf16"
    recipe.pretrain.run_dir = str(tmp_path / "bf16")
    assert main(recipe) == 0
    assert losses(recipe) == pytest.approx(plain, abs=0.05)
    assert losses(recipe) != plain
    exporting_dtype(recipe, tmp_path)


def test_compiled_layers_give_the_same_curve(recipe: Recipe, tmp_path: Path) -> None:
    recipe.pretrain.train_steps = 6
    assert main(recipe) == 0
    plain = losses(recipe)
    recipe.pretrain.compile = True
    recipe.pretrain.run_dir = str(tmp_path / "compiled")
    assert main(recipe) == 0
    assert losses(recipe) == pytest.approx(plain, abs=1e-4)
    assert losses(recipe) != plain, "nothing was compiled"


def exporting_dtype(recipe: Recipe, tmp_path: Path) -> None:
    recipe.export.run_dir = str(tmp_path / "bf16")
    recipe.model.parity_check = True
    exporting.main(recipe)
    assert json.loads((Path(str(recipe.export.output)) / "config.json").read_text())["dtype"] == "bfloat16"


def test_samples_longer_than_the_base_states(recipe: Recipe, tmp_path: Path) -> None:
    recipe.model.base = str(write_base(tmp_path / "short", max_position_embeddings=16))
    recipe.model.parity_check = True
    recipe.pretrain.train_steps = 5
    assert main(recipe) == 0
    assert losses(recipe) == pytest.approx(plain_loop(recipe)[0], abs=1e-4)
    exporting.main(recipe)
    config = json.loads((Path(str(recipe.export.output)) / "config.json").read_text())
    assert config["max_position_embeddings"] == recipe.pretrain.sequence_length == 24


@pytest.mark.parametrize(
    "settings",
    [
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4, "head_dim": 16},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
                "rope_theta": 500000.0,
            }
        },
    ],
    ids=["untied", "heads", "linear", "llama3"],
)
def test_other_shapes_go_through_unchanged(settings: dict[str, Any], recipe: Recipe, tmp_path: Path) -> None:
    """A learning rate of next to nothing: what is exported is what was read."""
    recipe.model.base = str(write_base(tmp_path, **settings))
    recipe.model.parity_check = True
    recipe.pretrain.train_steps = 1
    recipe.pretrain.optimizer.lr = recipe.pretrain.optimizer.min_lr = 1e-30
    recipe.pretrain.optimizer.warmup_steps = 0
    assert main(recipe) == 0
    exporting.main(recipe)
    before, after = FolderWeights(tmp_path), FolderWeights(str(recipe.export.output))
    assert set(before.names) == set(after.names)
    for name in before.names:
        rows = before.shape(name)[0]
        assert torch.equal(before.rows(name, 0, rows), after.rows(name, 0, rows)), name
    tokens = parity.probe_tokens(parity.read_architecture(str(recipe.export.output)))
    plain = AutoModelForCausalLM.from_pretrained(str(recipe.export.output))
    with torch.no_grad():
        logits = plain(tokens).logits
    assert np.allclose(logits, parity.huggingface_logits(str(recipe.export.output), tokens), atol=1e-5)


def test_mfu_is_of_the_peak_that_was_measured(recipe: Recipe) -> None:
    recipe.pretrain.train_steps, recipe.pretrain.peak_flops = 3, "measured"
    assert main(recipe) == 0
    for record in steps(recipe):
        assert record["peak_flops"] > 1e8
        assert record["mfu"] == pytest.approx(record["flops_per_second"] / record["peak_flops"])
        assert 0 < record["mfu"] < 1
