"""A tiny Llama, and shards of two sources, made on the spot by the stages that make them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch

from data_curation import tokenize
from meditron.config import PretrainConfig, Recipe, TokenizeConfig, resolve
from meditron.config.loading import dump_recipe
from meditron.config.model import ModelConfig
from meditron.config.pretrain import CheckpointConfig, OptimizerConfig, ParallelConfig, ValidationConfig
from meditron.files import atomic_write_json
from meditron.manifest import write_manifest

TEXTS = {
    "papers": [
        f"Patient {n} had HbA1c {n % 9 + 4}.{n % 7}% and eGFR <{60 + n}; BP 1{n % 5}0/90 mmHg."
        for n in range(60)
    ],
    "replay": [
        f"Once upon a time there was a little girl who had {n} red balls and a park." for n in range(40)
    ],
}
LAYOUTS = {
    "TP2": {"tensor_model_parallel_size": 2},
    "TP2+SP": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "PP2": {"pipeline_model_parallel_size": 2},
    "CP2": {"context_parallel_size": 2},
    "PP2 interleaved": {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2},
    "DP2": {"data_parallel_size": 2, "distributed_optimizer": True},
    "DP2 overlapping": {
        "data_parallel_size": 2,
        "overlap_grad_reduce": True,
        "overlap_param_gather": True,
        "ddp_bucket_size": 9000,  # a third of the model's parameters
    },
    "DP2 plain": {"data_parallel_size": 2, "distributed_optimizer": False},
    "DP2 plain overlapping": {
        "data_parallel_size": 2,
        "distributed_optimizer": False,
        "overlap_grad_reduce": True,
        "ddp_bucket_size": 9000,
    },
}


def run_together(count: int, recipes: list[Recipe], stopped: Sequence[int] = ()) -> None:
    """Run recipes one after another in `count` processes that are started once.

    Those whose numbers are in `stopped` are asked to stop after their first step.
    """
    paths = []
    for number, recipe in enumerate(recipes):
        path = Path(str(recipe.pretrain.run_dir)).parent / f"{number}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_recipe(recipe))
        paths.append(f"stop:{path}" if number in stopped else str(path))
    processes = start_together(count, "tests.pretrain.several", paths)
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output


def start_together(count: int, module: str, arguments: list[str]) -> "list[subprocess.Popen[str]]":
    """Processes of one group, each `python -m module arguments`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [_start(rank, count, port, [module, *arguments]) for rank in range(count)]


def _start(rank: int, count: int, port: int, arguments: list[str]) -> "subprocess.Popen[str]":
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    root = Path(__file__).resolve().parents[2]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment, cwd=root, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def write_corpus(folder: Path, texts: dict[str, list[str]]) -> Path:
    for source, some in texts.items():
        for split, part in (("train", some[5:]), ("validation", some[:5])):
            (folder / split).mkdir(parents=True, exist_ok=True)
            table = pa.table(
                {"id": [str(n) for n in range(len(part))], "text": pa.array(part, pa.large_string())}
            )
            pq.write_table(table, folder / split / f"{source}-00000.parquet")
    kinds = {name: {"kind": "general" if name == "replay" else "medical"} for name in texts}
    atomic_write_json(folder / "stats.json", {"sources": kinds})
    write_manifest(folder, kind="corpus", config={}, inputs={}, counts={}, licenses={"papers": "CC-BY-4.0"})
    return folder


def write_tokenizer(folder: Path) -> None:
    trained = tokenizers.ByteLevelBPETokenizer()
    texts = [text for some in TEXTS.values() for text in some]
    trained.train_from_iterator(texts, vocab_size=333, special_tokens=["<s>", "</s>"])
    trained.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "</s>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def write_base(folder: Path, **settings: object) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {
        "vocab_size": 333,
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
    }
    LlamaForCausalLM(LlamaConfig(**{**shape, **settings})).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(autouse=True)
def no_group_is_left() -> Iterator[None]:
    """A run that ends with an error leaves its process group, as its process ends with it."""
    yield
    leave()


def leave() -> None:
    from meditron.models.megatron.parallel import leave_processes

    if torch.distributed.is_initialized():
        leave_processes()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = tmp_path_factory.mktemp("data")
    corpus = write_corpus(folder / "corpus", TEXTS)
    config = TokenizeConfig(corpus=str(corpus), tokenizer=str(base))
    tokenize.main(resolve(Recipe(work_dir=str(folder), tokenize=config)))
    return folder / "shards"


@pytest.fixture
def recipe(tmp_path: Path, base: Path, shards: Path) -> Recipe:
    """Twenty steps of four samples in fp32 on one process, with validation and checkpoints."""
    return make_recipe(tmp_path, base, shards)


def make_recipe(work_dir: Path, base: Path, shards: Path) -> Recipe:
    config = PretrainConfig(
        shards=str(shards),
        sequence_length=24,
        micro_batch_size=1,
        global_batch_size=4,
        train_steps=20,
        precision="fp32",
        weights={"papers": 0.7, "replay": 0.3},
        parallel=ParallelConfig(),
        optimizer=OptimizerConfig(lr=3e-3, min_lr=3e-4, warmup_steps=4),
        checkpoint=CheckpointConfig(interval=7, keep=0),
        validation=ValidationConfig(interval=10),
    )
    model = ModelConfig(base=str(base), parity_check=False, vocab_padding_multiple=16)
    return resolve(Recipe(work_dir=str(work_dir), model=model, pretrain=config))
