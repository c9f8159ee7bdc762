"""Ways of asking, side by side: what each shows, how its answer is read, and its name by hash."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.extract import RULES_VERSION
from meditron.config import GenerationConfig
from meditron.config.evaluation import CHAT_SUFFIX

HASHED = (
    "output_type",
    "description",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "target_delimiter",
    "fewshot_delimiter",
    "generation_kwargs",
    "repeats",
)
"""Settings of an lm-eval task that decide what a model is asked and how its answer is read."""

ASKED_BY = {"passkey": ("answer", "generate")}
"""Forms of questions that not every protocol can ask; the options of a pass-key are never shown."""
ROTATED = ("letter", "generate")
"""Protocols that show the options, and cost too little for their order to be a question of cost."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way of asking."""

    name: str
    """Name in the recipe, such as `letter` or `cot-chat`."""

    @property
    def kind(self) -> str:
        """letter, answer, generate, cot or vote."""
        return self.name.removesuffix(CHAT_SUFFIX)

    @property
    def chat(self) -> bool:
        """Whether the prompt is a conversation in the model's chat template."""
        return self.name.endswith(CHAT_SUFFIX)

    @property
    def generates(self) -> bool:
        """Whether the model writes its answer."""
        return self.kind in ("generate", "cot", "vote")

    def shots(self, wanted: int) -> int:
        """Solved examples before the question: none before reasoning, as there is none to show."""
        return 0 if self.kind in ("cot", "vote") else wanted

    def settings(self, config: GenerationConfig, seed: int) -> dict[str, Any]:
        """What a recipe changes in the lm-eval task."""
        if not self.generates:
            return {}
        tokens = config.max_tokens if self.kind == "generate" else config.reasoning_tokens
        generation: dict[str, Any] = {"until": ["\n\nQuestion"], "max_gen_toks": tokens, "do_sample": False}
        if self.kind != "vote":
            return {"generation_kwargs": generation}
        sampling = {"do_sample": True, "temperature": config.temperature, "seed": seed}
        return {"generation_kwargs": generation | sampling, "repeats": config.samples}

    def text(self, metric: str, shots: int, config: GenerationConfig) -> str:
        """The protocol in one line."""
        how = {
            "letter": "options shown, likelihood of each option's letter",
            "answer": "likelihood of each option's text",
            "generate": f"options shown, read from at most {config.max_tokens} generated tokens",
            "cot": f"options shown, thinks step by step in at most {config.reasoning_tokens} tokens",
            "vote": f"as cot, vote of {config.samples} samples at temperature {config.temperature:g}",
        }[self.kind]
        per_character = " per character, options not shown" if metric == "acc_norm" else ""
        chat = ", chat template" if self.chat else ""
        return f"{how}{per_character}, {shots or 'no'} solved example{'' if shots == 1 else 's'}{chat}"


@dataclass(frozen=True, kw_only=True)
class Shots:
    """The solved examples before each question."""

    count: int
    """How many."""
    pool: str
    """Hash of what they are drawn from."""
    seeds: Sequence[int]
    """Seeds that they are drawn with."""


def protocol_hash(
    task_config: Any,  # noqa: ANN401 - lm-eval is untyped
    protocol: Protocol,
    metric: str,
    shots: Shots,
    chat_template: Any = None,  # noqa: ANN401 - a template, or several by name
) -> str:
    """First eight digits of the hash of prompt, parser and shots; what a protocol does not use is no part."""
    settings = {name: getattr(task_config, name) for name in HASHED}
    settings |= {"metric": metric, "shots": shots.count, "chat": protocol.chat}
    if shots.count:
        settings |= {"pool": shots.pool, "seeds": list(shots.seeds)}
    if protocol.generates:
        settings["rules"] = RULES_VERSION
    if protocol.chat:
        settings["chat_template"] = chat_template
    return _digest(settings)


def perplexity_hash(window: int, max_characters: int | None, at_least: int = 0) -> str:
    """The same of a perplexity: how documents are cut, and which are read.

    Args:
        window: tokens of a window.
        max_characters: what is read of each source.
        at_least: tokens of the shortest document that is read.
    """
    return _digest(
        {
            "output_type": "perplexity",
            "window": window,
            "stride": window,
            "before": "one token",
            "max_characters": max_characters,
            "at_least": at_least,
        }
    )


def perplexity_text(window: int, max_characters: int | None) -> str:
    """The way of measuring perplexity in one line."""
    part = "" if max_characters is None else f", the first {max_characters:,} characters of each source"
    return f"windows of {window:,} tokens without overlap, one token known before each{part}"


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
