"""Log-likelihoods of answers after their prompts. Shapes: T tokens of a pass, P tokens of the cached prefix,
N positions that are scored, H width, V vocabulary."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from evaluation.adapter.blocks import to_blocks
from evaluation.adapter.llama import LlamaPass
from evaluation.adapter.tree import Extend, Ids, Node, Pack, Retract, Scheduler, Segment, build_tree

LOGIT_ROWS = 256
"""Positions whose logits exist at the same time."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt with an answer, as the tokens that go in and those that should come out."""

    ids: Ids
    """Input: the prompt and the answer without its last token, [tokens]."""
    targets: Ids
    """The answer: what should follow each of the last input tokens, [answer tokens]."""

    @property
    def first_scored(self) -> int:
        """Position of the input token that the answer's first token should follow."""
        return len(self.ids) - len(self.targets)


@dataclass(kw_only=True)
class Score:
    """What a model makes of an answer."""

    logprob: float = 0.0
    """Sum of the log-probabilities of the answer's tokens (natural logarithm)."""
    greedy: bool = True
    """Whether each token was the likeliest one."""
    missing: int = 0
    """Tokens that are not computed yet."""

    def as_record(self) -> dict[str, float | bool]:
        """What is kept of it."""
        return {"logprob": self.logprob, "greedy": self.greedy}


Advance = Callable[[int], None]
"""Is told the number of tokens that were computed."""


class Scorer(Protocol):
    """Computes scores; the order in which they come is its own."""

    def plan(self, requests: Sequence[Request]) -> int:
        """Take the requests, and say how many tokens have to be computed."""
        ...

    def scores(self, advance: Advance) -> Iterator[list[tuple[int, Score]]]:
        """After each pass, index and score of the requests that it completed."""
        ...


class TreeScorer:
    """Computes each shared beginning once, for models with plain causal attention.

    Args:
        model: a `LlamaForCausalLM`.
        batch_tokens: most tokens of one pass.
    """

    def __init__(self, model: Any, batch_tokens: int) -> None:  # noqa: ANN401 - transformers is untyped
        self._run, self._head = LlamaPass(model.model), model.lm_head
        self._device = model.device
        self._batch_tokens = batch_tokens

    def plan(self, requests: Sequence[Request]) -> int:
        """Build the tree of the requests."""
        self._requests = requests
        self._scores = [Score(missing=len(request.targets)) for request in requests]
        self._root = build_tree([request.ids for request in requests])
        return self._root.size

    def scores(self, advance: Advance) -> Iterator[list[tuple[int, Score]]]:
        """Go through the tree, depth first."""
        for step in Scheduler(self._batch_tokens).steps(self._root):
            match step:
                case Retract(tokens=tokens):
                    self._run.prefix.crop(tokens)
                case Extend(node=node, is_new=is_new):
                    for piece in self._pieces(node):
                        segment = Segment(node=piece, parent=None, is_new=is_new)
                        yield self._pass([segment], keep=True)
                        advance(len(piece.tokens) if is_new else 0)
                case Pack(segments=segments):
                    yield self._pass(segments, keep=False)
                    advance(sum(len(segment.node.tokens) for segment in segments if segment.is_new))

    def _pieces(self, node: Node) -> Iterator[Node]:
        for begin in range(0, len(node.tokens), self._batch_tokens):
            tokens = node.tokens[begin : begin + self._batch_tokens]
            yield Node(tokens=tokens, start=node.start + begin, sequences=node.sequences)

    @torch.inference_mode()
    def _pass(self, segments: list[Segment], keep: bool) -> list[tuple[int, Score]]:
        """One forward pass over segments that follow the cached prefix, and what it says about the requests
        that go through the new ones."""
        nodes = [segment.node for segment in segments]
        ids_T = np.concatenate([node.tokens for node in nodes])
        positions_T = np.concatenate([np.arange(len(node.tokens)) + node.start for node in nodes])
        places, targets, owners = self._wanted(segments)
        places_N, row_of_place = np.unique(np.array(places, np.int64), return_inverse=True)
        hidden_NH = self._run(
            self._tensor(ids_T),
            self._tensor(positions_T),
            to_blocks(segments, self._run.prefix.length, self._device),
            self._tensor(places_N),
            keep,
        )
        values, hits = self._read(hidden_NH, row_of_place, np.array(targets))
        return self._add(owners, values, hits)

    def _tensor(self, values: Any) -> torch.Tensor:  # noqa: ANN401
        return torch.as_tensor(values, dtype=torch.long, device=self._device)

    def _add(
        self, owners: Sequence[int], values: Sequence[float], hits: Sequence[bool]
    ) -> list[tuple[int, Score]]:
        """Add tokens to the scores of their requests; those that are complete with it."""
        done = []
        for owner, value, hit in zip(owners, values, hits, strict=True):
            score = self._scores[owner]
            score.logprob += value
            score.greedy &= hit
            score.missing -= 1
            if score.missing == 0:
                done.append((owner, score))
        return done

    def _wanted(self, segments: list[Segment]) -> tuple[list[int], list[int], list[int]]:
        """Place in the pass, target token and request of everything to be read off."""
        places: list[int] = []
        targets: list[int] = []
        owners: list[int] = []
        begin = 0
        for segment in segments:
            node, length = segment.node, len(segment.node.tokens)
            for owner in node.sequences if segment.is_new else ():
                request = self._requests[owner]
                first = max(request.first_scored, node.start)
                last = min(len(request.ids), node.start + length)
                if first < last:
                    places.extend(range(begin + first - node.start, begin + last - node.start))
                    skip = first - request.first_scored
                    targets.extend(request.targets[skip : skip + last - first].tolist())
                    owners.extend([owner] * (last - first))
            begin += length
        return places, targets, owners

    def _read(
        self, hidden_NH: torch.Tensor, rows: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]
    ) -> tuple[list[float], list[bool]]:
        """Log-probability of each target at its row, and whether it is the likeliest token there."""
        values = torch.empty(len(rows), dtype=torch.float32)
        hits = torch.empty(len(rows), dtype=torch.bool)
        for begin in range(0, len(hidden_NH), LOGIT_ROWS):
            logits_NV = self._head(hidden_NH[begin : begin + LOGIT_ROWS]).float()
            inside = np.flatnonzero((rows >= begin) & (rows < begin + LOGIT_ROWS))
            row, target = self._tensor(rows[inside] - begin), self._tensor(targets[inside])
            values[inside] = (logits_NV[row, target] - logits_NV.logsumexp(-1)[row]).cpu()
            hits[inside] = (logits_NV.argmax(-1)[row] == target).cpu()
        return values.tolist(), hits.tolist()


class RowScorer:
    """Computes each distinct sequence whole, in padded batches of like lengths: right for any model.

    Args:
        model: a causal language model of transformers.
        batch_tokens: most tokens of one pass, padding included.
    """

    def __init__(self, model: Any, batch_tokens: int) -> None:  # noqa: ANN401
        self._model, self._batch_tokens = model, batch_tokens

    def plan(self, requests: Sequence[Request]) -> int:
        """Find the distinct sequences."""
        self._requests = requests
        self._groups: dict[bytes, list[int]] = {}
        for index, request in enumerate(requests):
            self._groups.setdefault(request.ids.tobytes(), []).append(index)
        return sum(map(self._length, self._groups.values()))

    def scores(self, advance: Advance) -> Iterator[list[tuple[int, Score]]]:
        """Longest sequences first, so that memory runs out at once or never."""
        for batch, longest in self._batches(self._groups.values()):
            yield self._pass(batch, longest)
            advance(sum(self._length(group) for group in batch))

    def _length(self, group: list[int]) -> int:
        return len(self._requests[group[0]].ids)

    def _batches(self, groups: Iterable[list[int]]) -> Iterator[tuple[list[list[int]], int]]:
        """Groups that fit in one pass, and the length of their longest."""
        waiting = sorted(groups, key=self._length, reverse=True)
        while waiting:
            longest = self._length(waiting[0])
            count = max(self._batch_tokens // longest, 1)
            yield waiting[:count], longest
            del waiting[:count]

    @torch.inference_mode()
    def _pass(
        self, batch: list[list[int]], longest: int, memory: Any = None, read: int = 0  # noqa: ANN401
    ) -> list[tuple[int, Score]]:  # fmt: skip
        """One forward pass over what follows the first `read` tokens, which the memory holds."""
        ids_BT = torch.zeros(len(batch), longest - read, dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, group in enumerate(batch):
            ids = self._requests[group[0]].ids[read:]
            ids_BT[row, : len(ids)] = torch.as_tensor(ids.astype(np.int64))
            mask_BT[row, : len(ids)] = 1
        device = self._model.device
        settings = {} if memory is None else {"past_key_values": memory, "use_cache": True}
        out = self._model(input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device), **settings)
        return [
            (index, self._score(out.logits[row], self._requests[index], read))
            for row, group in enumerate(batch)
            for index in group
        ]

    def _score(self, logits_TV: torch.Tensor, request: Request, read: int) -> Score:
        logits_NV = logits_TV[request.first_scored - read : len(request.ids) - read].float()
        targets_N = torch.as_tensor(request.targets.astype(np.int64), device=logits_NV.device)
        logprobs_N = logits_NV.log_softmax(-1).gather(1, targets_N[:, None])
        greedy = bool((logits_NV.argmax(-1) == targets_N).all())
        return Score(logprob=float(logprobs_N.sum(dtype=torch.float64)), greedy=greedy)
