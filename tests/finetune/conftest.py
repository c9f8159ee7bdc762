"""A tiny Llama with a tokenizer, and conversations, made on the spot."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from meditron.config import Recipe, resolve

TURNS = [
    ("What lowers HbA1c?", "Metformin does."),
    ("Is BP <140/90 a target?", "Yes, for most adults; <130/80 where it is tolerated."),
    ("Name an ACE inhibitor.", "Ramipril, 2.5 mg once a day at first."),
    ("What is eGFR?", "The estimated filtration rate of the kidneys, in mL/min."),
    ("Which drug is given in anaphylaxis, and how?", "Adrenaline, 0.5 mg into the muscle of the thigh."),
]


def conversation(number: int) -> dict[str, Any]:
    question, answer = TURNS[number % len(TURNS)]
    messages = [
        {"role": "user", "content": f"{question} ({number})"},
        {"role": "assistant", "content": answer},
    ]
    if number % 3 == 0:
        messages.insert(0, {"role": "system", "content": "You are a careful physician."})
    if number % 4 == 0:
        messages += [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Trials show it. " * 3},
        ]
    return {"messages": messages}


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def make_tokenizer(folder: Path, special: list[str], template: str | None = None) -> None:
    texts = [json.dumps(conversation(number)) for number in range(40)]
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=320, special_tokens=special)
    trained.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": special[0],
        "additional_special_tokens": special[1:],
    }
    if template:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_model(folder: Path, vocab_size: int = 320, **settings: Any) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=vocab_size, num_key_value_heads=2, bos_token_id=0, eos_token_id=0, **{**shape, **settings}
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("model"), tie_word_embeddings=True)
    make_tokenizer(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return folder


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Path) -> Recipe:
    """Seven steps of four conversations in fp32, with validation."""
    write_jsonl(tmp_path / "train.jsonl", [conversation(number) for number in range(14)])
    write_jsonl(tmp_path / "held-out.jsonl", [conversation(number) for number in range(14, 17)])
    recipe = resolve(Recipe(work_dir=str(tmp_path), data_root=str(tmp_path)))
    settings = {
        "model": str(model_folder),
        "data": ["train.jsonl"],
        "validation": ["held-out.jsonl"],
        "max_steps": 7,
        "micro_batch_size": 2,
        "global_batch_size": 4,
        "lr": 1e-3,
        "precision": "fp32",
        "max_length": 128,
    }
    for name, value in settings.items():
        setattr(recipe.finetune, name, value)
    return recipe
