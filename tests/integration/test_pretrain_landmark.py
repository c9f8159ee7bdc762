"""Landmark attention through `meditron pretrain` and `meditron export`: curves, layouts, the folder alone."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from meditron.config import EvaluateConfig, Recipe
from meditron.config.pretrain import DeepSpeedConfig, ParallelConfig
from meditron.manifest import read_manifest
from meditron.models import exporting
from meditron.models.options.base import parse_options, settings_of
from meditron.models.options.landmark.modeling_landmark import LandmarkLlamaConfig, LandmarkLlamaForCausalLM
from pretrain.data import TrainingData
from pretrain.main import main
from pretrain.schedule import learning_rate
from tests.integration.test_pretrain_layouts import check_curve
from tests.pretrain.conftest import (  # noqa: F401
    base,
    make_recipe,
    no_group_is_left,
    run_together,
    shards,
)
from tests.pretrain.test_trainer import losses

OPTION = {"block_size": 3, "window": 32, "top_k": 2}
LAYOUTS = {
    "TP2": {"tensor_model_parallel_size": 2},
    "TP2+SP": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "PP2": {"pipeline_model_parallel_size": 2},
    "CP2": {"context_parallel_size": 2},
}


def with_landmarks(recipe: Recipe) -> Recipe:
    recipe.model.options = settings_of(parse_options({"landmark": OPTION}))
    return recipe


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, base: Path, shards: Path) -> Recipe:  # noqa: F811
    """A finished run of twenty steps on one process, exported."""
    recipe = with_landmarks(make_recipe(tmp_path_factory.mktemp("landmark"), base, shards))
    assert main(recipe) == 0
    recipe.model.parity_check = True
    exporting.main(recipe)
    return recipe


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory, base: Path, shards: Path) -> dict[str, Recipe]:  # noqa: F811
    folder = tmp_path_factory.mktemp("two")
    recipes = {name: with_landmarks(make_recipe(folder / name, base, shards)) for name in LAYOUTS}
    for name, layout in LAYOUTS.items():
        recipes[name].pretrain.parallel = ParallelConfig(**layout)
    if find_spec("deepspeed") is not None:
        made = recipes["ZeRO 2"] = with_landmarks(make_recipe(folder / "zero", base, shards))
        made.pretrain.engine, made.pretrain.deepspeed = "deepspeed", DeepSpeedConfig(zero_stage=2)
        made.pretrain.parallel = ParallelConfig(data_parallel_size=2)
    for made in recipes.values():
        made.pretrain.checkpoint.interval = 20
    run_together(2, list(recipes.values()))
    return recipes


def landmark_copy(folder: str) -> LandmarkLlamaForCausalLM:
    """The base model with a landmark whose embedding is the mean of the others, made by hand."""
    plain = LlamaForCausalLM.from_pretrained(folder)
    settings: dict[str, Any] = {f"landmark_{name}": value for name, value in OPTION.items()}
    rows = plain.config.vocab_size
    config = {**plain.config.to_dict(), "vocab_size": rows + 1, "landmark_token_id": rows, **settings}
    model = LandmarkLlamaForCausalLM(
        LandmarkLlamaConfig(**{k: v for k, v in config.items() if k != "model_type"})
    )
    weights = plain.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], weights[name].double().mean(0, keepdim=True).float()])
    model.load_state_dict(weights)
    return model.train()


def plain_loop(recipe: Recipe) -> list[float]:
    """The same training with the Hugging Face model, which puts landmarks in itself, and torch's AdamW."""
    config = recipe.pretrain
    model = landmark_copy(recipe.model.base)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-5)
    data = TrainingData(Path(str(config.shards)), config.weights, config.sequence_length, recipe.seed)
    found = []
    for step in range(config.train_steps):
        tokens = torch.from_numpy(data.batch(step * 4, 4, 4, 0, 1)[0][0])
        logits = model(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.train_steps, config.optimizer)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def test_the_megatron_form_has_the_curve_of_the_hugging_face_form(one_process: Recipe) -> None:
    assert losses(one_process) == pytest.approx(plain_loop(one_process), abs=1e-4)
    assert losses(one_process)[-1] < losses(one_process)[0] - 1  # it learns


@pytest.mark.parametrize("layout", [*LAYOUTS, "ZeRO 2"])
def test_two_processes_have_the_curve_of_one(
    layout: str, two_processes: dict[str, Recipe], one_process: Recipe
) -> None:
    if layout not in two_processes:
        pytest.skip("the extra `deepspeed` is not installed")
    check_curve(two_processes[layout], one_process)


def test_the_exported_folder_says_what_it_is(one_process: Recipe) -> None:
    folder = Path(str(one_process.export.output))
    manifest = read_manifest(folder, kind="model", check_files="full")
    assert manifest.extra["max_logit_difference"] <= 1e-4
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LandmarkLlamaForCausalLM"]
    assert (config["vocab_size"], config["landmark_token_id"]) == (334, 333)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert tokenizer.convert_tokens_to_ids("<landmark>") == 333
    assert tokenizer.decode([333], skip_special_tokens=True) == ""


ALONE = """
import importlib.util, sys
sys.path = [entry for entry in sys.path if entry != ROOT]
sys.modules["meditron"] = None  # whoever imports the package fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
ids = tokenizer("Patient 7 had HbA1c 6.1% and eGFR <70; BP 130/90 mmHg. " * 6, return_tensors="pt").input_ids
out = model.generate(ids, max_new_tokens=8, do_sample=False)
with torch.no_grad():
    loss = model(ids, labels=ids).loss
print(type(model).__name__, ids.shape[1] > 64, 333 in out[0].tolist(), loss.item() < 5)
print(*out[0, -8:].tolist())
"""


def test_it_generates_and_scores_where_this_package_is_absent(one_process: Recipe, tmp_path: Path) -> None:
    root, folder = Path(__file__).resolve().parents[2], Path(str(one_process.export.output))
    script = ALONE.replace("ROOT", repr(str(root))).replace("FOLDER", repr(str(folder)))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    first, generated = result.stdout.strip().splitlines()[-2:]  # transformers may say something too
    assert first == "LandmarkLlamaForCausalLM True False True"
    assert len(generated.split()) == 8


def test_other_stages_load_it_with_its_option_and_without_asking(one_process: Recipe) -> None:
    from evaluation.model import load_model as load_to_evaluate
    from finetune.model import AnswerLoss
    from finetune.model import load_model as load_to_tune

    folder = Path(str(one_process.export.output))
    evaluated = load_to_evaluate("model", folder, "", EvaluateConfig())
    assert type(evaluated.model) is LandmarkLlamaForCausalLM
    assert evaluated.max_length == 32768
    tuned = load_to_tune(str(folder), 336, recompute=True)
    assert type(tuned) is LandmarkLlamaForCausalLM
    ids = torch.randint(300, (2, 90))  # longer than the window of 32
    loss = AnswerLoss(tuned.train())(ids, ids)
    loss.backward()
    assert tuned.model.embed_tokens.weight.grad[333].abs().sum() > 0


def test_an_exported_model_is_the_base_of_a_further_run(
    one_process: Recipe,
    tmp_path: Path,
    shards: Path,  # noqa: F811
) -> None:
    recipe = make_recipe(tmp_path, Path(str(one_process.export.output)), shards)
    recipe.pretrain.train_steps = 3
    assert main(recipe) == 0
    # It goes on from where the first run ended, and not from fresh weights without landmarks.
    assert losses(recipe)[0] == pytest.approx(losses(one_process)[-1], abs=0.7)
    exporting.main(recipe)
    config = json.loads((Path(str(recipe.export.output)) / "config.json").read_text())
    assert config["landmark_token_id"] == 333
