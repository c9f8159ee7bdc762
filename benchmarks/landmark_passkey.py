"""Landmark attention in miniature: a key hidden in text, read far beyond the trained length.

Usage: python benchmarks/landmark_passkey.py [--seeds 0 1 2] [--steps 600] [--prompts 32] [--processes 2]
The same two-layer Llama is trained with landmarks and with plain full attention on prompts of at most 120
tokens, from the same weights on the same batches; both are then asked for keys in longer and longer prompts.
A prompt is right when every token of the key has the highest logit. Each model has a process and a thread.
"""

import argparse
import math
import multiprocessing
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
TRAINED, SHORTEST, BATCH = 120, 40, 16
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
    "landmark_block_size": 7,
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
    """Seconds of training; the learning rate rises over 50 steps and falls to a tenth by a cosine."""
    drawn, start = random.Random(seed), time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01)

    def share(step: int) -> float:
        return min((step + 1) / 50, 0.55 + 0.45 * math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    model.train()
    for _ in range(steps):
        ids = batch(BATCH, drawn.randint(SHORTEST, TRAINED), drawn)
        logits = model(ids[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        weights = loss_weights(ids).flatten()
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
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


def measure(job: tuple[str, int, int, int]) -> str:
    """Train one model and ask it; what was found, in lines."""
    kind, seed, steps, prompts = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model: Any = LandmarkLlamaForCausalLM(LandmarkLlamaConfig(**SHAPE, **LANDMARKS))
    if kind == "full attention":
        weights, model = model.state_dict(), LlamaForCausalLM(LlamaConfig(**SHAPE))
        model.load_state_dict(weights)
    head = f"seed {seed}, {kind}"
    lines = [f"{head}: trained in {train(model, seed, steps):.0f} s"]
    lines.append(f"{head}: {asked(model, prompts)}")
    if kind == "landmarks":
        model.config.landmark_dense = True
        short = {at: length for at, length in LENGTHS.items() if length <= 960}
        lines.append(f"{head}, without retrieval: {asked(model, prompts, short)}")
    else:
        lines.append(f"{head} to the last {TRAINED} tokens: {asked(model, prompts, window=TRAINED)}")
    return "\n".join(lines)


def asked(
    model: Any, prompts: int, lengths: dict[str, int] = LENGTHS, window: int | None = None
) -> dict[str, float]:
    return {at: round(accuracy(model, length, prompts, window), 2) for at, length in lengths.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=["landmarks", "full attention"])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    print(f"torch {version('torch')}, {platform.machine()}, {os.cpu_count()} cores", flush=True)
    jobs = [
        (kind, seed, arguments.steps, arguments.prompts)
        for seed in arguments.seeds
        for kind in arguments.kinds
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for lines in pool.imap(measure, jobs):
            print(lines, flush=True)


if __name__ == "__main__":
    main()
