"""Checkpoints in the other engine's form: the same tensors to the bit, and a run that goes on from them."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from meditron.checkpoints import checkpoint_path
from meditron.cli import main as command
from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.config.pretrain import CheckpointConfig
from meditron.manifest import read_manifest, write_manifest
from meditron.models.architecture import from_hf
from meditron.models.stored import KINDS, open_state
from pretrain.main import main
from tests.pretrain.conftest import make_recipe
from tests.pretrain.test_trainer import losses


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base: Path, shards: Path
) -> Recipe:
    """A finished run of six steps with checkpoints after three and six."""
    made = make_recipe(tmp_path_factory.mktemp("trained"), base, shards)
    made.pretrain.precision = request.param
    made.pretrain.train_steps = 6
    made.pretrain.checkpoint = CheckpointConfig(interval=3, keep=0)
    assert main(made) == 0
    (Path(made.work_dir) / "recipe.yaml").write_text(dump_recipe(made))
    return made


def third(recipe: Recipe) -> Path:
    return checkpoint_path(Path(str(recipe.pretrain.run_dir)) / "checkpoints", 3)


def convert(recipe: Recipe, path: Path, to: str, output: Path) -> int:
    options = {"config": f"{recipe.work_dir}/recipe.yaml", "to": to, "output": output}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return command(["checkpoint", "convert", str(path), *words])


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    manifest = read_manifest(folder, kind="checkpoint", check_files="full")
    state = open_state(folder, from_hf(dict(manifest.extra["architecture"]), str(folder)))
    return {f"{kind}/{name}": state.read(kind, name) for kind in KINDS for name in state.names()}


def check_same(folder: Path, other: Path) -> None:
    found, expected = tensors(folder), tensors(other)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert any(tensor.any() for key, tensor in found.items() if key.startswith("exp_avg_sq"))


def test_there_and_back_again_the_run_goes_on_bitwise(trained: Recipe, tmp_path: Path) -> None:
    whole, back = tmp_path / "whole", tmp_path / "run" / "checkpoints" / "step_00000003"
    assert convert(trained, third(trained), "deepspeed", whole) == 0
    check_same(whole, third(trained))
    assert convert(trained, whole, "megatron", back) == 0
    check_same(back, third(trained))
    again = copy.deepcopy(trained)
    again.pretrain.run_dir = str(tmp_path / "run")
    assert main(again) == 0
    assert losses(again) == losses(trained)[3:]


def test_a_checkpoint_of_deepspeed_goes_on_under_megatron(trained: Recipe, tmp_path: Path) -> None:
    """The moments and the number of updates are loaded, without a conversion."""
    run = tmp_path / "run"
    assert convert(trained, third(trained), "deepspeed", run / "checkpoints" / "step_00000003") == 0
    again = copy.deepcopy(trained)
    again.pretrain.run_dir = str(run)
    assert main(again) == 0
    assert losses(again) == losses(trained)[3:]


def test_without_the_optimizer_as_a_hugging_face_folder(trained: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert convert(trained, third(trained), "hf", folder) == 0
    manifest = read_manifest(folder, kind="model", check_files="full")
    assert manifest.counts["step"] == 3
    model = AutoModelForCausalLM.from_pretrained(folder)
    stored = tensors(third(trained))
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, stored[f"param/{name}"].to(weight.dtype), rtol=0, atol=0)


def test_what_is_refused(trained: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(str(trained.pretrain.run_dir))
    assert convert(trained, run, "megatron", tmp_path / "out") == 5
    assert "step_00000006: has the form of megatron already" in capsys.readouterr().err
    assert convert(trained, run, "deepspeed", run) == 3
    assert "exists; remove it or choose another folder" in capsys.readouterr().err
    assert convert(trained, tmp_path, "deepspeed", tmp_path / "out") == 5
    assert "holds no whole checkpoint" in capsys.readouterr().err
    assert command(["checkpoint", "convert", str(run), "--to", "hf"]) == 2
    assert "needs one checkpoint, --to and --output" in capsys.readouterr().err
    other = tmp_path / "finetune" / "checkpoints" / "step_00000001"
    other.mkdir(parents=True)
    write_manifest(other, kind="checkpoint", config={}, inputs={}, counts={})
    assert convert(trained, other, "deepspeed", tmp_path / "out") == 5
    assert "is not of `meditron pretrain`" in capsys.readouterr().err
    cut = tmp_path / "cut"
    shutil.copytree(third(trained), cut)
    next(iter(cut.glob("*.distcp"))).write_bytes(b"cut")
    assert convert(trained, cut, "deepspeed", tmp_path / "out") == 5
    assert "3 bytes, the manifest says" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
