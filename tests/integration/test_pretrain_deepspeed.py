"""The DeepSpeed engine on two processes: every ZeRO stage has Megatron's curve; stages change on resuming."""

import copy
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from meditron.config import Recipe
from meditron.config.pretrain import DeepSpeedConfig, ParallelConfig, PretrainConfig
from meditron.errors import EnvironmentMissingError
from meditron.models import exporting
from meditron.models.architecture import read_architecture
from meditron.models.megatron.parallel import alone
from pretrain.main import main
from tests.integration.test_pretrain_layouts import (  # noqa: F401
    check_curve,
    check_curve_bf16,
    one_process,
    one_process_bf16,
)
from tests.pretrain.conftest import (  # noqa: F401
    base,
    make_recipe,
    no_group_is_left,
    recipe,
    run_together,
    shards,
)
from tests.pretrain.test_trainer import losses, steps

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed"
)
STAGES = (0, 1, 2, 3)
BF16_STAGES = (1, 2, 3)


def zero(made: Recipe, stage: int, **settings: Any) -> Recipe:
    made.pretrain.engine = "deepspeed"
    made.pretrain.deepspeed = DeepSpeedConfig(zero_stage=stage, **settings)
    made.pretrain.parallel = ParallelConfig(data_parallel_size=2)
    made.pretrain.checkpoint.interval = 20
    return made


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,  # noqa: F811
    shards: Path,  # noqa: F811
) -> dict[str, Recipe]:
    """Each stage, and one run that is stopped at stage 1 and goes on at stage 3, in one pair of processes."""
    folder = tmp_path_factory.mktemp("zero")
    found = {f"ZeRO {stage}": zero(make_recipe(folder / f"{stage}", base, shards), stage) for stage in STAGES}
    found["offload"] = zero(make_recipe(folder / "offload", base, shards), 2, offload_optimizer="cpu")
    found["all offloaded"] = zero(
        make_recipe(folder / "all", base, shards), 3, offload_optimizer="cpu", offload_parameters="cpu"
    )
    for stage in BF16_STAGES:
        made = zero(make_recipe(folder / f"{stage}_bf16", base, shards), stage)
        made.pretrain.precision = "bf16"
        found[f"ZeRO {stage}, bf16"] = made
    first = zero(make_recipe(folder / "changed", base, shards), 1)
    triggers = Path(str(first.pretrain.run_dir)) / "triggers"
    triggers.mkdir(parents=True)
    (triggers / "exit").touch()
    found["stopped at ZeRO 1"] = first
    found["ZeRO 1, then 3"] = zero(copy.deepcopy(first), 3)
    run_together(2, list(found.values()))
    return found


@pytest.mark.parametrize(
    "name", [*(f"ZeRO {stage}" for stage in STAGES), "offload", "all offloaded", "ZeRO 1, then 3"]
)
def test_it_has_the_curve_of_megatron_on_one_process(
    name: str,
    runs: dict[str, Recipe],
    one_process: Recipe,  # noqa: F811
) -> None:
    check_curve(runs[name], one_process)


@pytest.mark.parametrize("stage", BF16_STAGES)
def test_it_has_megatrons_curve_in_bf16(
    stage: int,
    runs: dict[str, Recipe],
    one_process_bf16: Recipe,  # noqa: F811
) -> None:
    check_curve_bf16(runs[f"ZeRO {stage}, bf16"], one_process_bf16)


def test_its_checkpoint_is_exported(runs: dict[str, Recipe]) -> None:
    made = runs["ZeRO 2"]
    made.model.parity_check = True
    exporting.main(made)
    tokens = torch.arange(24)[None]
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(str(made.export.output))(tokens).logits
    assert torch.isfinite(logits).all()


def test_offloading_to_nvme(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """What DeepSpeed is told; and one sentence where it cannot build what it needs."""
    from pretrain.engines.deepspeed import DeepSpeedEngine, import_deepspeed

    offload: dict[str, Any] = {
        "offload_optimizer": "nvme",
        "offload_parameters": "cpu",
        "nvme_path": "/scratch",
    }
    config = PretrainConfig(engine="deepspeed", deepspeed=DeepSpeedConfig(zero_stage=3, **offload))
    operators = import_deepspeed().ops.__compatible_ops__
    with alone():
        monkeypatch.setitem(operators, "async_io", True)
        settings = DeepSpeedEngine(read_architecture(base), config)._settings()["zero_optimization"]
        monkeypatch.setitem(operators, "async_io", False)
        with pytest.raises(
            EnvironmentMissingError, match="install libaio with its headers, or offload to cpu"
        ):
            DeepSpeedEngine(read_architecture(base), config)
    assert settings["offload_optimizer"] == {"device": "nvme", "nvme_path": "/scratch", "pin_memory": False}
    assert settings["offload_param"] == {"device": "cpu", "pin_memory": False}


def test_a_step_that_is_not_finite_is_skipped(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from pretrain.engines.deepspeed import DeepSpeedEngine

    losses_of = DeepSpeedEngine._losses
    calls = [0]

    def spoiled(self: DeepSpeedEngine, *tensors: torch.Tensor) -> torch.Tensor:
        calls[0] += torch.is_grad_enabled()
        loss = losses_of(self, *tensors)
        return loss * math.nan if torch.is_grad_enabled() and calls[0] == 9 else loss

    monkeypatch.setattr(DeepSpeedEngine, "_losses", spoiled)
    made = zero(recipe, 1)
    made.pretrain.parallel = ParallelConfig()
    made.pretrain.train_steps = 5
    assert main(made) == 0
    assert [r["step"] for r in steps(made) if r.get("skipped")] == [3]
    assert all(math.isfinite(loss) for loss in losses(made) if not isinstance(loss, str))
