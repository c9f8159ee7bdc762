"""Which model is evaluated, and where it runs."""

import shutil
from pathlib import Path

import pytest
import torch

from evaluation.model import choose_device, identify
from meditron.config import EvaluateConfig
from meditron.errors import ConfigError, EnvironmentMissingError


@pytest.mark.parametrize("name", ["generation_config.json", "modeling_own.py", "chat_template.jinja"])
def test_whatever_changes_an_answer_changes_the_identity(
    model_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    found = [identify(folder)]
    for text in ('{"eos_token_id": 1}', '{"eos_token_id": 2}'):
        (folder / name).write_text(text)
        found.append(identify(folder))
    assert len(set(found)) == 3
    (folder / "README.md").write_text("changes nothing")
    assert identify(folder) == found[-1]


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert choose_device(name) == torch.device("cuda", 0)
    for variable, value in (("LOCAL_RANK", "2"), ("LOCAL_WORLD_SIZE", "4"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(variable, value)
    assert choose_device(name) == torch.device("cuda", 2)


@pytest.mark.usefixtures("four_gpus")
def test_one_gpu_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"'cuda:1' would put all 2 processes on one GPU"):
        choose_device("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # the other process is on another machine
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(EnvironmentMissingError, match=r"'cuda:4', but torch sees 4 GPUs"):
        choose_device("cuda:4")
    with pytest.raises(ConfigError, match=r"evaluate\.device: 'cuda:0' is one GPU for all processes"):
        EvaluateConfig(device="cuda:0", nproc=2)
