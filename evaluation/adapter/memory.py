"""Scores of models that read long inputs in chunks, into a memory: what inputs share is read once."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from evaluation.adapter.score import Advance, Request, RowScorer, Score
from evaluation.adapter.tree import Ids, common_length


class MemoryScorer(RowScorer):
    """Computes what is before the last chunk's end that several inputs share once, and the rest in rows.

    For models with `new_memory` and `chunk_end`, see `LandmarkLlamaModel`. What fits their window is read
    whole.
    """

    def plan(self, requests: Sequence[Request]) -> int:
        """Find the distinct sequences, and what they share."""
        super().plan(requests)
        self._shared: dict[bytes, tuple[Ids, list[list[int]]]] = {}
        groups = sorted(self._groups.values(), key=lambda group: requests[group[0]].ids.tolist())
        before = 0
        for number, group in enumerate(groups):
            ids = requests[group[0]].ids
            after = common_length(ids, requests[groups[number + 1][0]].ids) if number + 1 < len(groups) else 0
            first_scored = min(requests[index].first_scored for index in group)
            shared = ids[: self._model.model.chunk_end(min(max(before, after), first_scored), len(ids))]
            self._shared.setdefault(shared.tobytes(), (shared, []))[1].append(group)
            before = after
        rests = (
            len(ids) + sum(self._rest(ids, group) for group in own) for ids, own in self._shared.values()
        )
        return sum(rests)

    def _rest(self, shared: Ids, group: list[int]) -> int:
        return self._length(group) - len(shared)

    def scores(self, advance: Advance) -> Iterator[list[tuple[int, Score]]]:
        """One shared beginning after the other, those that share it longest first."""
        for shared, groups in self._shared.values():
            memory = self._read(shared)
            advance(len(shared))
            for batch, longest in self._batches(groups):
                yield self._pass(batch, longest, memory and memory.repeated(len(batch)), len(shared))
                advance(sum(self._rest(shared, group) for group in batch))

    @torch.inference_mode()
    def _read(self, shared: Ids) -> Any:  # noqa: ANN401 - a `LandmarkMemory`, or None where nothing is shared
        if not len(shared):
            return None
        memory = self._model.model.new_memory()
        ids_1T = torch.as_tensor(shared.tolist(), device=self._model.device)[None]
        self._model.model(input_ids=ids_1T, past_key_values=memory, use_cache=True)
        return memory
