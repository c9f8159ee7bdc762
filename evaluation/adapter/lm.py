"""The model as lm-eval sees it: its own Hugging Face adapter, with the computation replaced."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lm_eval.models.huggingface import HFLM

from evaluation.adapter.cache import AnswerCache, Value
from evaluation.adapter.generate import Prompt, Writer
from evaluation.adapter.memory import MemoryScorer
from evaluation.adapter.score import Request, RowScorer, Scorer, TreeScorer
from evaluation.adapter.tree import Ids
from evaluation.adapter.vllm import VllmScorer, VllmWriter
from evaluation.model import LoadedModel
from evaluation.quiet import quiet
from evaluation.team import Team
from meditron.errors import InputError
from meditron.progress import progress

TREE_MODELS = ("llama",)
"""Model types with plain causal attention, which a mask may replace and cached keys may precede."""
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 8192
NOT_MINE: Value = {"logprob": 0.0, "greedy": False, "text": ""}
"""Stands for the answer that another part of the work finds; nothing that is made of it is kept."""
Pair = tuple[Any, list[int], list[int]]
"""What was asked, tokens of the prompt, tokens of the answer."""


@dataclass(kw_only=True)
class Counters:
    """What happened on the way."""

    computed: int = 0
    """Answers that were computed now."""
    known: int = 0
    """Answers that the cache had."""
    cut: int = 0
    """Answers whose prompt lost its beginning to the model's context."""
    cut_prompts: set[str] = field(default_factory=set)
    """Those prompts."""


class MeditronLM(HFLM):  # type: ignore[misc]
    """lm-eval's `hf` model with shared computation and a cache; the requests are tokenized alike.

    Args:
        loaded: the model.
        cache: where answers are kept.
        batch_tokens: most tokens of one pass. Default: 512 on a CPU, 8192 on a GPU.
        label: name of the model on the terminal.
        generation_batch: answers that are generated at the same time.
        team: the processes that share the work. Default: this one alone.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        cache: AnswerCache,
        batch_tokens: int | None = None,
        label: str = "model",
        generation_batch: int = 8,
        team: Team | None = None,
    ) -> None:
        with quiet():
            super().__init__(
                pretrained=loaded.model,
                tokenizer=loaded.tokenizer,
                max_length=loaded.max_length,
                batch_size=1,
                backend="causal",
            )
        self.loaded, self.label, self.generation_batch = loaded, label, generation_batch
        self.counters = Counters()
        self.seconds: dict[str, float] = {}
        """Task to the time its answers took."""
        self._names: list[str] = []
        self._answers, self._team = cache, team or Team()
        default = CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS
        self.batch_tokens = batch_tokens or default
        self._encoded: dict[str, list[int]] = {}

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability of each answer, and whether it is what the model would say."""
        self._encoded = {}  # each prompt is tokenized once, however many answers it has
        self._names = [str(request.task_name) for request in requests]
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        self._encoded, self._names = {}, []
        return answers

    def score_tokens(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """The same for prompts and answers that are tokens already."""
        return self._loglikelihood_tokens(pairs)

    def tok_encode(self, string: str, *arguments: Any, **named: Any) -> list[int]:  # noqa: ANN401
        """Token ids of a text."""
        if arguments or named:
            ids: list[int] = super().tok_encode(string, *arguments, **named)
            return ids
        if string not in self._encoded:
            self._encoded[string] = super().tok_encode(string)
        return self._encoded[string]

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Answers in the order of the requests: from the cache, or computed and put there."""
        asked = [self._request(*pair) for pair in requests]
        keys = [self._answers.key("likelihood", _sizes(item), item.ids.tobytes()) for item in asked]
        order = sorted(range(len(asked)), key=lambda index: asked[index].ids.tolist())
        new = self._own_part(keys, order, [len(asked[index].ids) for index in order])
        self._compute(asked, new)
        return [(value["logprob"], value["greedy"]) for value in self._collected(keys)]

    def _own_part(self, keys: Sequence[str], order: Sequence[int], costs: Sequence[int]) -> dict[str, int]:
        """What this process has to compute: key to index, of its part of `order`, without what is known.

        The parts depend on all that is asked, not on what is known: another process may have begun.
        """
        missing = [index for index, key in enumerate(keys) if self._answers.get(key) is None]
        self.counters.known += len(keys) - len(missing)
        own = {keys[order[place]]: order[place] for place in self._team.share(costs)}
        unknown = {keys[index] for index in missing}
        return {key: index for key, index in own.items() if key in unknown}

    def _collected(self, keys: Sequence[str]) -> list[Value]:
        """The answers of all processes; a stand-in for what a process that works apart has not computed."""
        if self._team.apart:
            return [self._answers.get(key) or NOT_MINE for key in keys]
        if self._team.size > 1:
            self._team.wait()
            self._answers.read()
        known = (self._answers.get(key) for key in keys)
        found = [value for value in known if value is not None]
        if len(found) < len(keys):
            raise InputError(
                f"{self._answers.path.parent}: lacks {len(keys) - len(found):,} answers that other processes "
                "computed; put evaluate.output on a file system that all of them share"
            )
        return found

    def _request(self, what: Any, context: list[int], continuation: list[int]) -> Request:  # noqa: ANN401
        everything = context + continuation
        if len(everything) > self.max_length + 1:
            self.counters.cut += 1
            if what is not None:
                self.counters.cut_prompts.add(what[0])
        kept = np.array(everything[-(self.max_length + 1) :], np.int32)
        targets = kept[1:][-len(continuation) :]
        return Request(ids=kept[:-1], targets=targets)

    def _compute(self, asked: Sequence[Request], new: Mapping[str, int]) -> None:
        """Compute the requests at the indices in `new`, and keep each answer as soon as it is there."""
        if not new:
            return
        keys, indices = list(new), list(new.values())
        scorer = self._scorer()
        total = scorer.plan([asked[index] for index in indices])
        with progress(total, f"{self.label}: {len(new):,} answers", "tokens") as task:
            started = time.perf_counter()
            for finished in scorer.scores(task.advance):
                self._answers.add((keys[place], score.as_record()) for place, score in finished)
                self.counters.computed += len(finished)
                now = time.perf_counter()
                self._spend(now - started, [indices[place] for place, _ in finished])
                started = now

    def _spend(self, seconds: float, indices: Sequence[int]) -> None:
        """Put a pass on the account of the tasks whose answers it finished."""
        for index in indices if self._names else ():
            name = self._names[index]
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds / len(indices)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """The answer to each prompt; a prompt that is asked several times gets as many samples."""
        seen: Counter[str] = Counter()
        prompts, keys = [], []
        for request in requests:
            context, settings = request.args
            ids = self._cut_prompt(context, int(settings["max_gen_toks"]))
            asked = self._answers.key("generate", ids.tobytes(), json.dumps(settings, sort_keys=True))
            key = self._answers.key(asked, str(seen[asked]))
            seen[asked] += 1
            prompts.append(_to_prompt(ids, settings, key))
            keys.append(key)
        self._names = [str(request.task_name) for request in requests]
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].ids))
        costs = [len(prompts[index].ids) + prompts[index].max_tokens for index in order]
        self._write(prompts, self._own_part(keys, order, costs))
        self._names = []
        return [value["text"] for value in self._collected(keys)]

    def _cut_prompt(self, context: str, max_tokens: int) -> Ids:
        """Tokens of a prompt that leave room for the answer."""
        ids = self.tok_encode(context)
        room = max(self.max_length - max_tokens, 1)
        if len(ids) > room:
            self.counters.cut += 1
            self.counters.cut_prompts.add(context)
        return np.array(ids[-room:], np.int32)

    def _write(self, prompts: Sequence[Prompt], new: Mapping[str, int]) -> None:
        """Generate the answers at the indices in `new`, and keep each batch as soon as it is there."""
        if not new:
            return
        keys, indices = list(new), list(new.values())
        writer = self._writer()
        with progress(len(new), f"{self.label}: generated answers", "answers") as task:
            started = time.perf_counter()
            for finished in writer.write([prompts[index] for index in indices]):
                self._answers.add((keys[place], {"text": text}) for place, text in finished)
                self.counters.computed += len(finished)
                now = time.perf_counter()
                self._spend(now - started, [indices[place] for place, _ in finished])
                started = now
                task.advance(len(finished))

    def _end_ids(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, and those of the model's generation configuration."""
        named = getattr(self.loaded.model.generation_config, "eos_token_id", None)
        ids = named if isinstance(named, list) else [named]
        return [int(end) for end in (*ids, self.tokenizer.eos_token_id) if end is not None]

    @property
    def _is_plain(self) -> bool:
        return self.loaded.model.config.model_type in TREE_MODELS

    def _writer(self) -> Writer | VllmWriter:
        if self.loaded.engine is not None:
            return VllmWriter(self.loaded.engine, self._end_ids())
        alone = not self._is_plain
        return Writer(self.loaded.model, self.tok_decode, self._end_ids(), self.generation_batch, alone)

    def _scorer(self) -> Scorer:
        if self.loaded.engine is not None:
            return VllmScorer(self.loaded.engine)
        chunked = hasattr(self.loaded.model.base_model, "chunk_end")
        kind = TreeScorer if self._is_plain else MemoryScorer if chunked else RowScorer
        return kind(self.loaded.model, self.batch_tokens)


def _sizes(request: Request) -> bytes:
    """What tells apart prompts and answers of the same tokens, and carries the last token."""
    return np.array([len(request.targets), int(request.targets[-1])], np.int64).tobytes()


def _to_prompt(ids: Ids, settings: Mapping[str, Any], key: str) -> Prompt:
    """What lm-eval's generation settings mean here; the key makes the seed of a sample."""
    samples = bool(settings.get("do_sample"))
    return Prompt(
        ids=ids,
        max_tokens=int(settings["max_gen_toks"]),
        stops=tuple(settings.get("until") or ()),
        temperature=float(settings["temperature"]) if samples else None,
        seed=int(key[:15], 16),
    )
