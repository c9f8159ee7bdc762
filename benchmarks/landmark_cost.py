"""What a generated token and a training step cost with landmark attention, against full attention.

Usage: python benchmarks/landmark_cost.py [--parts generation 504 2016] [--layers 30] [--rounds 5]
Both models have the same weights, of SmolLM2-135M's shape, in fp32. A context of n tokens is put into the
caches as random keys and values, because its reading does not matter for the cost of the next token. Full
attention has transformers' two caches: the usual one, which grows by copying, and the static one, which has
all its room from the start. The alternatives run in turns; medians are printed.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

from meditron.models.options.landmark.memory import LayerBlocks
from meditron.models.options.landmark.modeling_landmark import LandmarkLlamaConfig, LandmarkLlamaForCausalLM

CONTEXTS = (2048, 8192, 32768)
SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 65536,
    "tie_word_embeddings": True,
}
LANDMARKS = {
    "landmark_block_size": 63,
    "landmark_window": 512,
    "landmark_top_k": 4,
    "landmark_retrieval": "head",
    "landmark_token_id": 49151,
}


def fill(cache: Any, model: Any, tokens: int) -> Any:
    config = model.config
    for layer in range(config.num_hidden_layers):
        shape = (1, config.num_key_value_heads, tokens, config.head_dim)
        cache.update(torch.randn(shape), torch.randn(shape), layer)
    return cache


def full_caches(model: Any, tokens: int) -> tuple[Any, Any]:
    static = StaticCache(config=model.config, max_cache_len=tokens + 512)
    return fill(DynamicCache(config=model.config), model, tokens), fill(static, model, tokens)


def block_memory(model: Any, tokens: int) -> Any:
    config, memory = model.config, model.model.new_memory()
    blocks = tokens // config.landmark_block_size
    shape = (1, config.num_key_value_heads, blocks + 8, memory.block, config.head_dim)
    for _ in range(config.num_hidden_layers):
        tail = torch.zeros(*shape[:2], *shape[3:])
        landmarks = torch.randn(*shape[:3], shape[4])
        layer = LayerBlocks(
            keys=torch.randn(shape), values=torch.randn(shape), landmarks=landmarks,
            tail_keys=tail, tail_values=tail.clone(),
        )  # fmt: skip
        memory.layers.append(layer)
    memory.blocks, memory.tails, memory.tokens = [blocks], [0], blocks * config.landmark_block_size
    return memory


@torch.no_grad()
def seconds_of_a_token(model: Any, cache: Any, tokens: int) -> float:
    ids, times = torch.tensor([[7]]), []
    for _ in range(tokens):
        start = time.perf_counter()
        model(ids, past_key_values=cache, use_cache=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def generation(plain: Any, landmark: Any, tokens: int, rounds: int) -> None:
    print("| context | full, ms a token | full, static cache, ms | landmark, ms | ratios "
          "| full, MB read | landmark, MB | ratio |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for context in CONTEXTS:
        growing, static = full_caches(plain, context)
        memory = block_memory(landmark, context)
        runs = ((plain, growing), (plain, static), (landmark, memory))
        times = [[seconds_of_a_token(*run, tokens) for run in runs] for _ in range(rounds)]
        usual, fixed, ours = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        held = sum(2 * layer.keys.numel() * 4 for layer in growing.layers) / 1e6
        read = memory.read_bytes / 1e6
        ratios = f"{usual / ours:.1f}, {fixed / ours:.1f}"
        print(f"| {context} | {usual:.1f} | {fixed:.1f} | {ours:.1f} | {ratios} | {held:.1f} | {read:.2f} "
              f"| {held / read:.1f} |", flush=True)  # fmt: skip


def step(model: Any, ids: Tensor) -> float:
    start = time.perf_counter()
    model(ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad()
    return time.perf_counter() - start


def training(plain: Any, landmark: Any, lengths: list[int], rounds: int) -> None:
    print("\n| training step | full attention, s | landmark, s | ratio |\n|---|---|---|---|")
    for length in lengths:
        rows = 2016 // length
        ids = torch.randint(49151, (rows, length))
        runs: list[Callable[[], float]] = [lambda: step(plain, ids), lambda: step(landmark, ids)]  # noqa: B023
        pairs = [tuple(run() for run in runs) for _ in range(rounds + 1)][1:]
        full, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"| {rows} x {length} tokens | {full:.2f} | {ours:.2f} | {ours / full:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["generation", "504", "2016"])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    shape = {**SHAPE, "num_hidden_layers": arguments.layers}
    plain: Any = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="sdpa")).eval()
    landmark: Any = LandmarkLlamaForCausalLM(LandmarkLlamaConfig(**shape, **LANDMARKS)).eval()
    landmark.load_state_dict(plain.state_dict())
    print(f"torch {version('torch')}, transformers {version('transformers')}, {platform.machine()}, "
          f"{os.cpu_count()} cores, {arguments.layers} layers")  # fmt: skip
    if "generation" in arguments.parts:
        generation(plain, landmark, arguments.tokens, arguments.rounds)
    lengths = [int(part) for part in arguments.parts if part.isdigit()]
    if lengths:
        training(plain.train(), landmark.train(), lengths, arguments.rounds)


if __name__ == "__main__":
    main()
