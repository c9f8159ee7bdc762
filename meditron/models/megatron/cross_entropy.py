"""Cross-entropy of each token that makes no second copy of the logits, in fp32 whatever their format.

Shapes: t tokens, v rows of the vocabulary with its padding.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ELEMENTS = 1 << 22
"""Logits worked on at a time: 16 MiB in fp32."""


def token_cross_entropy(logits_tv: Tensor, labels_t: Tensor, vocab_size: int) -> Tensor:
    """Negative log-likelihood of each label, fp32 [t].

    The backward pass writes the gradient over the logits, so it can be run once, and nothing else may
    read the logits after it.

    Args:
        logits_tv: any float format; columns from `vocab_size` on are padding and get no probability.
        labels_t: int64, each in [0, vocab_size).
        vocab_size: true size of the vocabulary.
    """
    loss: Tensor = _TokenCrossEntropy.apply(logits_tv, labels_t, vocab_size)  # type: ignore[no-untyped-call]
    return loss


class _TokenCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_tv: Tensor, labels_t: Tensor, vocab_size: int) -> Tensor:  # noqa: ANN401
        normaliser_t = torch.empty(labels_t.shape, dtype=torch.float32, device=logits_tv.device)
        for rows in _chunks(logits_tv):
            torch.logsumexp(logits_tv[rows, :vocab_size].float(), -1, out=normaliser_t[rows])
        ctx.save_for_backward(logits_tv, labels_t, normaliser_t)
        ctx.vocab_size = vocab_size
        return normaliser_t - logits_tv.gather(-1, labels_t[:, None])[:, 0].float()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_t: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        logits_tv, labels_t, normaliser_t = ctx.saved_tensors
        for rows in _chunks(logits_tv):
            chunk = logits_tv[rows, : ctx.vocab_size]
            # d loss / d logits = softmax - one-hot
            slope = chunk.float().sub_(normaliser_t[rows, None]).exp_()
            slope.scatter_add_(-1, labels_t[rows, None], torch.full_like(slope[:, :1], -1))
            chunk.copy_(slope.mul_(grad_t[rows, None]))
        logits_tv[:, ctx.vocab_size :].zero_()
        return logits_tv, None, None


def _chunks(logits_tv: Tensor) -> Iterator[slice]:
    rows = max(_CHUNK_ELEMENTS // logits_tv.shape[1], 1)
    for start in range(0, len(logits_tv), rows):
        yield slice(start, start + rows)
