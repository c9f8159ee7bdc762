"""Writing answers: greedy or sampled, many at a time, each the same in any company.

Shapes: B answers, T tokens of the prompt, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from evaluation.adapter.tree import Ids

CHECK_EVERY = 4
"""Tokens between two looks for a stop text."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What one answer is written after."""

    ids: Ids
    """Tokens of the prompt, [tokens]."""
    max_tokens: int
    """Longest answer."""
    stops: tuple[str, ...]
    """Texts that end the answer, and are not part of it."""
    temperature: float | None
    """Temperature of sampling; None takes the likeliest token."""
    seed: int
    """Seed of the sampling of this answer alone."""


@dataclass(kw_only=True)
class _Row:
    """An answer that is being written."""

    index: int
    prompt: Prompt
    generator: np.random.Generator
    ids: list[int] = field(default_factory=list)
    text: str | None = None


class Writer:
    """Writes answers with a model's key-value cache.

    Args:
        model: a causal language model of transformers.
        decode: token ids to text, without special tokens.
        end_ids: tokens that end an answer.
        batch_size: answers that are written at the same time.
        alone: write one answer after the other with the model's own `generate`, for models whose memory is
            not a cache of keys and values.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - transformers is untyped
        decode: Callable[[list[int]], str],
        end_ids: Sequence[int],
        batch_size: int,
        alone: bool = False,
    ) -> None:
        self._model, self._decode, self._alone = model, decode, alone
        self._end_ids, self._batch_size = frozenset(end_ids), batch_size

    def write(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, str]]]:
        """After each batch, index and text of its answers; longest prompts first."""
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index].ids), index))
        for begin in range(0, len(order), self._batch_size):
            chosen = order[begin : begin + self._batch_size]
            rows = [
                _Row(index=index, prompt=prompts[index], generator=np.random.default_rng(prompts[index].seed))
                for index in chosen
            ]
            if self._alone:
                for row in rows:
                    self._write_alone(row)
            else:
                self._write(rows)
            yield [(row.index, row.text or "") for row in rows]

    @torch.inference_mode()
    def _write(self, rows: list[_Row]) -> None:
        """Write a batch of answers to their ends; finished ones leave the batch."""
        from transformers import DynamicCache

        cache = DynamicCache()
        ids_BT, mask_BT = self._padded([row.prompt.ids for row in rows])
        active = list(rows)
        while active:
            logits_BV = self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=(mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            tokens = self._choose(logits_BV, active)
            staying = [place for place, row in enumerate(active) if not self._add(row, tokens[place])]
            if not staying:
                return
            kept = torch.tensor(staying, device=ids_BT.device)
            if len(staying) < len(active):
                cache.batch_select_indices(kept)
            active = [active[place] for place in staying]
            ids_BT = torch.tensor([[tokens[place]] for place in staying], device=ids_BT.device)
            mask_BT = torch.nn.functional.pad(mask_BT[kept], (0, 1), value=1)

    @torch.inference_mode()
    def _write_alone(self, row: _Row) -> None:
        """Write an answer as the model itself does it."""
        prompt, device = row.prompt, self._model.device
        ids_1T = torch.as_tensor(prompt.ids.astype(np.int64), device=device)[None]
        sampling: dict[str, Any] = {"do_sample": False}
        if prompt.temperature is not None:
            sampling = {"do_sample": True, "temperature": prompt.temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(prompt.seed)
            written_1T = self._model.generate(
                ids_1T,
                attention_mask=torch.ones_like(ids_1T),
                max_new_tokens=prompt.max_tokens,
                eos_token_id=sorted(self._end_ids) or None,
                pad_token_id=0,
                **sampling,
            )
        row.ids = [token for token in written_1T[0, ids_1T.shape[1] :].tolist() if token not in self._end_ids]
        row.text = _before(self._decode(row.ids), prompt.stops)

    def _padded(self, sequences: Sequence[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts with padding on the left, and their mask, [B, T]."""
        longest = max(len(ids) for ids in sequences)
        ids_BT = torch.zeros(len(sequences), longest, dtype=torch.long)
        mask_BT = torch.zeros(len(sequences), longest, dtype=torch.long)
        for row, ids in enumerate(sequences):
            ids_BT[row, longest - len(ids) :] = torch.as_tensor(ids.astype(np.int64))
            mask_BT[row, longest - len(ids) :] = 1
        return ids_BT.to(self._model.device), mask_BT.to(self._model.device)

    def _choose(self, logits_BV: torch.Tensor, rows: Sequence[_Row]) -> list[int]:
        """The next token of each answer."""
        likeliest: list[int] = logits_BV.argmax(-1).tolist()
        return [
            likeliest[place]
            if row.prompt.temperature is None
            else _sample(logits_BV[place], row.prompt.temperature, row.generator)
            for place, row in enumerate(rows)
        ]

    def _add(self, row: _Row, token: int) -> bool:
        """Add a token to an answer; whether that ends it."""
        if token not in self._end_ids:
            row.ids.append(token)
        at_end = token in self._end_ids or len(row.ids) >= row.prompt.max_tokens
        if not at_end and len(row.ids) % CHECK_EVERY:
            return False
        text = self._decode(row.ids)
        if not at_end and not any(stop in text for stop in row.prompt.stops):
            return False
        row.text = _before(text, row.prompt.stops)
        return True


def _before(text: str, stops: Sequence[str]) -> str:
    """A text up to the first stop."""
    return text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]


def _sample(logits_V: torch.Tensor, temperature: float, generator: np.random.Generator) -> int:
    """A token drawn by its probability: the answer's own noise decides, whoever else is in the batch."""
    cumulative = (logits_V.double() / temperature).softmax(-1).cumsum(-1).cpu().numpy()
    drawn = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return min(drawn, len(cumulative) - 1)
