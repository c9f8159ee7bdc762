import importlib.metadata
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from launch import checks, doctor
from launch.checks import check_machine, check_paths
from launch.estimate import estimate, rank_parameters
from launch.layout import plans, worth_showing
from launch.speed import EFFICIENCY, expected_mfu, seconds, slowdown
from meditron.cli import main as command_line
from meditron.config import FinetuneConfig, ModelConfig, PretrainConfig, Recipe, resolve
from meditron.config.loading import load_recipe
from meditron.config.pretrain import DeepSpeedConfig, ParallelConfig
from meditron.config.runs import DoctorConfig
from meditron.devices import DEVICES
from meditron.errors import ConfigError
from meditron.models.architecture import PRESETS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (checks, doctor):
        monkeypatch.setattr(module, "has_slurm", lambda: False)
        monkeypatch.setattr(module, "gpu_memory", list)


def config(tensor: int = 1, pipeline: int = 1, data: int = 1, **settings) -> PretrainConfig:
    layout = ParallelConfig(
        tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline, data_parallel_size=data
    )
    return PretrainConfig(parallel=layout, **{"global_batch_size": 8 * data, **settings})


def missing(found: list[checks.Check]) -> list[str]:
    return [check.advice for check in found if check.state == "missing"]


def test_without_a_recipe_it_finds_nothing_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Nothing that is needed is missing." in out
    packages = len([text for text in importlib.metadata.requires("meditron") or [] if "extra" not in text])
    assert re.search(rf"packages +ok +{packages} of {packages} within", out)
    assert re.search(r"model\.base +ok +tiny \(a preset", out)
    assert all(len(line) <= 80 for line in out.splitlines())


def test_it_never_imports_the_training_libraries() -> None:
    code = (
        "import sys; from meditron.cli import main; main(['doctor']);"
        "heavy = {'transformers', 'megatron', 'datasets', 'accelerate'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize("name", ["llama2-7b", "smollm2-135m", "tiny"])
def test_one_process_holds_the_whole_model(name: str) -> None:
    architecture = PRESETS[name]
    padded = -(-architecture.vocab_size // 128) * 128
    expected = architecture.with_vocab_size(padded).num_parameters
    assert rank_parameters(architecture, ModelConfig(), config()) == expected


def test_parallel_sizes_divide_what_they_cut() -> None:
    architecture = PRESETS["llama2-7b"]
    whole = architecture.num_parameters
    tensor = rank_parameters(architecture, ModelConfig(vocab_padding_multiple=1), config(tensor=8))
    assert whole / 8 < tensor < whole / 8 * 1.001  # the norms are on every process
    pipeline = rank_parameters(architecture, ModelConfig(), config(pipeline=4))
    embedding = 32000 * 4096
    assert pipeline == (whole - 2 * embedding - 4096) // 4 + embedding + 4096


def test_bytes_follow_from_precision_and_data_parallel_size() -> None:
    needs = estimate(PRESETS["llama2-7b"], ModelConfig(), config(data=4))
    parameters = PRESETS["llama2-7b"].num_parameters
    assert (needs.weights, needs.gradients) == (2 * parameters, 4 * parameters)
    assert needs.optimizer == 3 * parameters
    assert needs.formulas["optimizer"] == "12 P / 4 (data-parallel)"
    assert needs.checkpoint == 14 * parameters
    fp32 = estimate(PRESETS["llama2-7b"], ModelConfig(), config(precision="fp32"))
    assert (fp32.weights, fp32.gradients, fp32.optimizer) == tuple(n * parameters for n in (4, 4, 8))
    layout = ParallelConfig(data_parallel_size=4, distributed_optimizer=False)
    whole = estimate(PRESETS["llama2-7b"], ModelConfig(), PretrainConfig(parallel=layout))
    assert whole.optimizer == 12 * parameters


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer", "buffers"),
    [(1, 2, 6, 3, 0), (2, 2, 1, 3, 2 * 2), (3, 0.5, 1, 3, 2 + 2 * 2)],
)
def test_zero_shares_out_more_at_each_stage(
    stage: Any, weights: float, gradients: float, optimizer: float, buffers: float
) -> None:
    """Bytes of a parameter over four processes, in bf16, for a model smaller than DeepSpeed's buffers."""
    settings = config(data=4, engine="deepspeed", deepspeed=DeepSpeedConfig(zero_stage=stage))
    needs = estimate(PRESETS["smollm2-135m"], ModelConfig(), settings)
    found = (needs.weights, needs.gradients, needs.optimizer, needs.buffers)
    shares = [each / needs.rank_parameters for each in found]
    assert shares == pytest.approx([weights, gradients, optimizer, buffers], rel=1e-6)
    assert needs.rank_bytes == sum(found) + needs.activations


def test_what_is_offloaded_is_not_on_the_device() -> None:
    zero = DeepSpeedConfig(zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu")
    needs = estimate(PRESETS["llama2-7b"], ModelConfig(), config(engine="deepspeed", deepspeed=zero))
    assert (needs.weights, needs.optimizer) == (0, 0)
    assert needs.formulas["optimizer"] == "12 P are offloaded to cpu"


def test_tokens_flops_and_time() -> None:
    settings = config(train_steps=10, sequence_length=1024, global_batch_size=4)
    needs = estimate(PRESETS["llama2-7b"], ModelConfig(), settings)
    assert needs.tokens == 10 * 4 * 1024
    assert needs.flops == needs.tokens * PRESETS["llama2-7b"].flops_per_token(1024)
    assert seconds(needs, settings, 1e15) == pytest.approx(
        needs.flops * slowdown(settings) / 1e15 / EFFICIENCY
    )


def test_the_papers_run_takes_as_long_as_the_paper_says() -> None:
    """MEDITRON-70B: 332 hours on 128 A100 (arXiv 2311.16079)."""
    recipe = load_recipe(CONFIGS / "meditron-70b.yaml")
    needs = estimate(PRESETS["llama2-70b"], recipe.model, recipe.pretrain)
    hours = seconds(needs, recipe.pretrain, DEVICES["a100-80gb"].bf16_flops) / 3600
    assert hours == pytest.approx(332, rel=0.05)


def test_interleaved_stages_idle_less_and_recomputing_costs_time() -> None:
    plain = config(pipeline=4)
    interleaved = replace(plain, parallel=replace(plain.parallel, virtual_pipeline_model_parallel_size=2))
    assert expected_mfu(interleaved) / expected_mfu(plain) == pytest.approx((1 + 3 / 8) / (1 + 3 / 16))
    assert slowdown(replace(plain, recompute="full")) == pytest.approx(slowdown(plain) * 4 / 3)


def test_the_time_is_told_for_a_peak_or_a_kind_of_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(resolve(Recipe())) == 0
    assert re.search(r"time +unknown +give --doctor\.gpu, or\s+pretrain\.peak_flops", capsys.readouterr().out)
    recipe = resolve(Recipe())
    recipe.pretrain.peak_flops = 1e12
    doctor.main(recipe)
    assert re.search(r"time +\d+\.\d min +on 1 x a device: \d\d% of 1\s+TFLOP/s", capsys.readouterr().out)
    recipe.doctor = DoctorConfig(gpu="h100")
    doctor.main(recipe)
    assert re.search(r"time +\d+\.\d min +on 1 x h100: \d\d% of 989\.4", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "preset", "time"),
    [
        ("meditron-7b", "llama2-7b", "2.3 days"),
        ("meditron-70b", "llama2-70b", "14.0 days"),
        ("meditron-llama3-8b", "llama3-8b", "days"),
    ],
)
def test_shipped_recipes_are_reckoned_before_anything_is_there(
    name: str, preset: str, time: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(["doctor", "--config", str(CONFIGS / f"{name}.yaml")]) == 10  # no data
    out = " ".join(capsys.readouterr().out.split())
    assert f"from the preset {preset}, for model.import_from:" in out
    assert time in out
    assert "once model.base is there" not in out


def test_layouts_are_proposed_as_settings_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    recipe, gpus = str(CONFIGS / "meditron-7b.yaml"), ["--doctor.gpus", "32", "--doctor.gpu", "h100"]
    command_line(["doctor", "--config", recipe, *gpus])
    out = capsys.readouterr().out
    assert "Layouts for 32 x h100, 4 a node" in out
    _, said = out.split("The first of them is the recipe with:\n")
    settings = said.split("\n\n")[0].split()
    changed = load_recipe(recipe, settings)
    assert changed.pretrain.parallel.world_size == 32
    needs = estimate(PRESETS["llama2-7b"], changed.model, changed.pretrain)
    assert f"{needs.rank_bytes / 1e9:.1f} GB" in out.split("Layouts for")[1].splitlines()[5]


def test_no_two_proposals_are_nearly_alike() -> None:
    recipe = load_recipe(CONFIGS / "meditron-7b.yaml")
    found = plans(PRESETS["llama2-7b"], recipe.model, recipe.pretrain, 32, DEVICES["h100"], 4)
    shown = worth_showing(found)
    assert shown[0] is found[0]
    assert len(shown) < len(found)
    for one, other in pairwise(shown):
        assert other.needs.rank_bytes < 0.9 * one.needs.rank_bytes
        assert other.slowdown >= one.slowdown
    assert all(plan.config.parallel.tensor_model_parallel_size <= 4 for plan in found)


def test_gpus_without_their_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"doctor\.gpus: 8 needs doctor\.gpu, their kind: one of a100-40gb"):
        DoctorConfig(gpus=8)


def test_missing_files_are_named_with_their_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there.jsonl").touch()
    recipe = Recipe(
        data_root=str(tmp_path),
        model=ModelConfig(base="nowhere/base"),
        finetune=FinetuneConfig(data=["th*.jsonl", "absent-*.jsonl"], validation=["there.jsonl"]),
    )
    assert doctor.main(resolve(recipe)) == 10
    out = " ".join(capsys.readouterr().out.split())
    assert "2 problems: 1. finetune.data: " in out
    unwrapped = out.replace("- ", "-")  # a long path may be cut at its hyphens
    assert "absent-*.jsonl does not exist; correct it, or set --data_root" in unwrapped
    assert "2. model.base: 'nowhere/base' is neither a folder nor a preset" in out


def test_a_base_that_is_yet_to_be_imported_is_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(model=ModelConfig(base="runs/x/base", import_from="a.gguf", import_to="runs/x/base"))
    assert missing(list(check_paths(resolve(recipe)))) == []
    assert doctor.main(recipe) == 0
    assert "once model.base is there" in capsys.readouterr().out


def test_a_package_outside_its_range_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ["rich>=99", "no-such-package>=1", "numpy>=1", "trackio; extra == 'trackio'"]
    monkeypatch.setattr(checks.importlib.metadata, "requires", lambda name: requires)
    problems = missing(list(check_machine(Recipe())))
    assert len(problems) == 2
    assert re.match(r"rich is \d.*, this project needs rich>=99; run: pip install 'rich>=99'\.", problems[0])
    assert problems[1].startswith("no-such-package is not installed, this project needs")


def test_a_missing_compiler_and_a_full_disk_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    monkeypatch.setattr(checks, "free_disk", lambda folder: 5_000_000)
    problems = missing(list(check_machine(Recipe(work_dir="runs/full"))))
    assert problems == [
        "No C++ compiler (c++, g++, clang++) is on the PATH; install g++, or load its module.",
        "work_dir: only 0.01 GB are free at runs/full; free some space or move work_dir.",
    ]


def needs_of(recipe: Recipe) -> list[str]:
    needs = estimate(PRESETS[recipe.model.base], recipe.model, recipe.pretrain)
    return missing(list(doctor.check_layout(recipe, needs)))


def test_what_does_not_fit_is_a_problem_here_but_not_on_a_login_node(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = resolve(Recipe(model=ModelConfig(base="llama2-7b"), pretrain=config(data=4)))
    monkeypatch.setattr(doctor, "free_disk", lambda folder: 10**15)
    monkeypatch.setattr(doctor, "gpu_memory", lambda: [24 * 10**9] * 2)
    layout, memory = needs_of(recipe)
    assert "4 processes need a GPU each, this machine has 2" in layout
    sizes = r"weights, gradients, optimizer and activations need 75\.\d GB, a GPU here has 24\.0 GB"
    assert re.search(sizes, memory)
    monkeypatch.setattr(doctor, "gpu_memory", lambda: [80 * 10**9] * 4)
    assert needs_of(recipe) == []
    monkeypatch.setattr(doctor, "gpu_memory", list)
    monkeypatch.setattr(doctor, "available_memory", lambda: 16 * 10**9)
    assert "this machine has free for all processes 16.0 GB" in needs_of(recipe)[0]
    monkeypatch.setattr(doctor, "has_slurm", lambda: True)
    assert needs_of(recipe) == []
    monkeypatch.setattr(doctor, "free_disk", lambda folder: 10**11)
    assert "3 checkpoints of 94.3 GB do not fit in the 100.0 GB free" in needs_of(recipe)[0]


def test_jobs_that_do_not_fill_nodes_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_slurm", lambda: True)
    recipe = resolve(Recipe(pretrain=config(data=12)))
    assert "do not fit evenly on 1 node" in missing(list(doctor.check_jobs(recipe)))[0]
    recipe.launch.gpus_per_node = 4
    (jobs,) = doctor.check_jobs(recipe)
    assert jobs.found == "pretrain: nodes 3, processes on each 4"
