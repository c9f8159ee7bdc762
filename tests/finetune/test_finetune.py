"""The whole stage on a tiny model: loss, resuming, stopping, export."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune import train
from finetune.batches import collate
from finetune.chat import Chat
from finetune.data import read_examples
from finetune.main import main
from finetune.model import AnswerLoss, load_model
from finetune.train import learning_rate
from meditron.config import FinetuneConfig, Recipe
from meditron.errors import CheckpointError, ConfigError, InputError, QuarantineError, TrainingError
from meditron.manifest import read_manifest
from meditron.runs import RunFolder
from tests.finetune.conftest import make_model, make_tokenizer, write_jsonl


def steps(recipe: Recipe) -> dict[int, dict[str, Any]]:
    log = RunFolder(str(recipe.finetune.run_dir)).read_log()
    return {record["step"]: record for record in log if record["event"] == "step"}


def weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    return load_file(f"{recipe.finetune.run_dir}/model/model.safetensors")


def in_folder(recipe: Recipe, name: str) -> Recipe:
    recipe.finetune.run_dir = str(Path(recipe.work_dir) / name)
    return recipe


def test_the_loss_is_that_of_transformers(recipe: Recipe, model_folder: Path) -> None:
    chat = Chat(model_folder)
    examples = read_examples([Path(recipe.work_dir) / "train.jsonl"], chat, 128).encoded[:4]
    ids, labels = collate(examples)
    model = load_model(str(model_folder), len(chat.tokenizer), recompute=False).eval()
    reference = model(input_ids=ids, labels=labels).loss
    ours = AnswerLoss(model)(ids, labels) / (labels[:, 1:] != -100).sum()
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=0)


def test_a_run_leaves_its_log_and_a_plain_model(recipe: Recipe, model_folder: Path) -> None:
    assert main(recipe) == 0
    log = steps(recipe)
    assert list(log) == [1, 2, 3, 4, 5, 6, 7]
    assert log[7]["loss"] < log[1]["loss"]
    assert set(log[1]["seconds"]) == {"data", "forward_backward", "optimizer"}
    assert log[1]["lr"] == pytest.approx(1e-3)
    run = RunFolder(str(recipe.finetune.run_dir))
    validation = {r["step"]: r for r in run.read_log() if r["event"] == "validation"}
    assert list(validation) == [0, 7]
    assert validation[7]["source"] == "held-out"
    assert validation[7]["loss"] < validation[0]["loss"]
    assert run.info()["state"] == "finished"
    folder = run.path / "model"
    manifest = read_manifest(folder, kind="model", check_files="full")
    assert manifest.counts["step"] == 7
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.tie_word_embeddings
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.eos_token_id == [0, end]
    assert "{%- generation -%}" in tokenizer.chat_template
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert main(recipe) == 0  # finished: nothing is done again
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_accumulation_equals_one_large_batch(recipe: Recipe) -> None:
    curves = []
    for micro_batch_size in (4, 1):
        recipe.finetune.micro_batch_size = micro_batch_size
        assert main(in_folder(recipe, f"micro{micro_batch_size}")) == 0
        curves.append((steps(recipe), weights(recipe)))
    (one, one_weights), (many, many_weights) = curves
    for step in one:
        assert many[step]["loss"] == pytest.approx(one[step]["loss"], abs=1e-5)
        assert many[step]["grad_norm"] == pytest.approx(one[step]["grad_norm"], abs=1e-5)
    for name, weight in one_weights.items():
        torch.testing.assert_close(many_weights[name], weight, atol=1e-5, rtol=0)


def test_recompute_changes_nothing(recipe: Recipe) -> None:
    assert main(in_folder(recipe, "none")) == 0
    first = steps(recipe)
    recipe.finetune.recompute = "full"
    assert main(in_folder(recipe, "full")) == 0
    assert [r["loss"] for r in steps(recipe).values()] == [r["loss"] for r in first.values()]


def test_resumed_equals_uninterrupted(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(in_folder(recipe, "straight")) == 0
    straight, straight_weights = steps(recipe), weights(recipe)
    in_folder(recipe, "cut")
    original = train.train_step

    def signalled(job: train.Job) -> dict[str, Any]:
        record = original(job)
        if job.step == 3:
            os.kill(os.getpid(), signal.SIGUSR2)
        return record

    monkeypatch.setattr(train, "train_step", signalled)
    assert main(recipe) == 75
    run = RunFolder(str(recipe.finetune.run_dir))
    assert run.info()["state"] == "stopped"
    assert [path.name for path in run.checkpoints.iterdir()] == ["step_00000003"]
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    assert main(recipe) == 0
    for step, record in steps(recipe).items():
        for key in ("loss", "grad_norm", "lr", "tokens"):
            assert record[key] == straight[step][key], (step, key)
    for name, weight in weights(recipe).items():
        assert torch.equal(weight, straight_weights[name]), name


def test_a_damaged_checkpoint_is_skipped_and_another_run_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.finetune.checkpoint_interval, recipe.finetune.keep_checkpoints = 3, 0
    assert main(recipe) == 0
    run = RunFolder(str(recipe.finetune.run_dir))
    expected = weights(recipe)
    (run.path / "model" / "manifest.json").unlink()
    damaged = run.checkpoints / "step_00000007" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    capsys.readouterr()
    assert main(recipe) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "step_00000007/model.safetensors" in said
    assert "this checkpoint is skipped" in said
    assert [r["path"] for r in run.read_log() if r["event"] == "resume"] == ["step_00000006"]
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(recipe).items())
    recipe.finetune.lr = 1e-4
    with pytest.raises(CheckpointError, match=r"finetune\.lr \(0\.001, now 0\.0001\)"):
        main(recipe)


def test_operators_triggers(recipe: Recipe) -> None:
    run = RunFolder(str(recipe.finetune.run_dir))
    (run.path / "triggers").mkdir(parents=True)
    (run.path / "triggers" / "exit").touch()
    assert main(recipe) == 75
    assert not (run.path / "triggers" / "exit").exists()
    assert (run.checkpoints / "step_00000001").is_dir()


def test_new_turn_tokens_get_rows(recipe: Recipe, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "plain", vocab_size=320)
    make_tokenizer(folder, ["</s>"])
    recipe.finetune.model, recipe.finetune.dtype = str(folder), "bfloat16"
    recipe.finetune.precision = "bf16"
    assert main(recipe) == 0
    model = AutoModelForCausalLM.from_pretrained(f"{recipe.finetune.run_dir}/model")
    tokenizer = AutoTokenizer.from_pretrained(f"{recipe.finetune.run_dir}/model")
    assert model.dtype == torch.bfloat16
    assert model.config.vocab_size == len(tokenizer)


def test_losses_that_are_not_finite_stop_the_run(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        AnswerLoss, "forward", lambda self, ids, labels: self.language_model.lm_head.weight.sum() * torch.inf
    )
    with pytest.raises(TrainingError, match=r"step 1 has loss.*train\.jsonl:\d+"):
        main(recipe)
    assert RunFolder(str(recipe.finetune.run_dir)).info()["state"] == "failed"


def test_what_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    recipe.finetune.data = []
    with pytest.raises(ConfigError, match=r"finetune\.data: names no file"):
        main(recipe)
    recipe.finetune.data = ["bad.jsonl"]
    write_jsonl(tmp_path / "bad.jsonl", [{"messages": []}])
    with pytest.raises(QuarantineError, match="1 of 1 lines"):
        main(recipe)
    quarantine = Path(str(recipe.finetune.run_dir)) / "quarantine.jsonl"
    assert json.loads(quarantine.read_text())["reason"] == "no list `messages`"
    recipe.finetune.model = str(tmp_path)
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        main(recipe)
    with pytest.raises(ConfigError, match=r"finetune\.micro_batch_size: 65"):
        FinetuneConfig(micro_batch_size=65)


def test_the_learning_rate() -> None:
    config = FinetuneConfig(lr=1.0, min_lr=0.1, warmup_fraction=0.2)
    rates = [learning_rate(step, 10, config) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate(0, 1, config) == 1.0
