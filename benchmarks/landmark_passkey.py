"""Landmark attention in miniature: a key hidden in text, read far beyond the trained length.

Usage: python benchmarks/landmark_passkey.py [--seeds 3] [--steps 400] [--prompts 32]
The same two-layer Llama is trained with landmarks and with plain full attention on prompts of at most 120
tokens, on the same batches; both are then asked for keys in longer and longer prompts. A prompt is right when
every token of the key has the highest logit.
"""

import argparse
import os
import platform
import random
import time
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from meditron.models.options.landmark.modeling_landmark import LandmarkLlamaConfig, LandmarkLlamaForCausalLM

KEYS, FILLER, KEY_LENGTH = 64, 20, 2
STATE, AGAIN, ASK, LANDMARK = (KEYS + FILLER + n for n in range(4))
TRAINED, SHORTEST = 120, 40
LENGTHS = {"trained": 120, "2x": 240, "4x": 480, "8x": 960, "32x": 3840}
SHAPE = {
    "vocab_size": LANDMARK + 1,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "initializer_range": 0.05,
    "bos_token_id": None,
    "eos_token_id": None,
}
LANDMARKS = {
    "landmark_block_size": 15,
    "landmark_window": 128,
    "landmark_top_k": 2,
    "landmark_retrieval": "head",
    "landmark_token_id": LANDMARK,
}


def prompt(length: int, drawn: random.Random) -> list[int]:
    """Filler, `STATE key AGAIN key`, filler, `ASK key`; the key stands anywhere."""
    key = [drawn.randrange(KEYS) for _ in range(KEY_LENGTH)]
    statement, question = [STATE, *key, AGAIN, *key], [ASK, *key]
    room = length - len(statement) - len(question)
    start = drawn.randrange(FILLER)
    filler = [KEYS + (start + n) % FILLER for n in range(room)]
    place = drawn.randrange(room + 1)
    return [*filler[:place], *statement, *filler[place:], *question]


def batch(rows: int, length: int, drawn: random.Random) -> Tensor:
    return torch.tensor([prompt(length, drawn) for _ in range(rows)])


def loss_weights(ids: Tensor) -> Tensor:
    """1 where the next token is of the key's second copy or of the answer, else 0.1: [B, S - 1]."""
    weights = torch.full(ids[:, 1:].shape, 0.1)
    for row, place in (ids == AGAIN).nonzero().tolist():
        weights[row, place : place + KEY_LENGTH] = 1.0
    weights[:, -KEY_LENGTH:] = 1.0
    return weights


def train(model: Any, seed: int, steps: int) -> float:
    """Seconds of training."""
    drawn, start = random.Random(seed), time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
    model.train()
    for _ in range(steps):
        ids = batch(32, drawn.randint(SHORTEST, TRAINED), drawn)
        logits = model(ids[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        weights = loss_weights(ids).flatten()
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        warmup.step()
    model.eval()
    return time.perf_counter() - start


@torch.no_grad()
def accuracy(model: Any, length: int, prompts: int, window: int | None = None) -> float:
    """Share of prompts whose whole key is read; `window` keeps only so many of the last tokens."""
    drawn, right = random.Random(f"test {length}"), 0
    rows = max(1, min(prompts, 8192 // length))
    for _ in range(prompts // rows):
        ids = batch(rows, length, drawn)
        seen = ids if window is None else ids[:, -window:]
        answers = model(seen[:, :-1], use_cache=False).logits[:, -KEY_LENGTH:].argmax(-1)
        right += int((answers == ids[:, -KEY_LENGTH:]).all(1).sum())
    return right / (prompts // rows * rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=32)
    arguments = parser.parse_args()
    print(f"torch {version('torch')}, {platform.machine()}, {os.cpu_count()} cores")
    for seed in range(arguments.seeds):
        torch.manual_seed(seed)
        landmark: Any = LandmarkLlamaForCausalLM(LandmarkLlamaConfig(**SHAPE, **LANDMARKS))
        plain: Any = LlamaForCausalLM(LlamaConfig(**SHAPE))
        plain.load_state_dict(landmark.state_dict())
        for name, model in (("landmark", landmark), ("full attention", plain)):
            seconds = train(model, seed, arguments.steps)
            found = {at: accuracy(model, length, arguments.prompts) for at, length in LENGTHS.items()}
            print(f"seed {seed}, {name}: trained in {seconds:.0f} s; {found}", flush=True)
        found = {at: accuracy(plain, n, arguments.prompts, TRAINED) for at, n in LENGTHS.items()}
        print(f"seed {seed}, full attention to the last {TRAINED} tokens: {found}", flush=True)
        landmark.config.landmark_dense = True
        found = {at: accuracy(landmark, n, arguments.prompts) for at, n in LENGTHS.items() if n <= 960}
        print(f"seed {seed}, landmarks without retrieval: {found}", flush=True)


if __name__ == "__main__":
    main()
