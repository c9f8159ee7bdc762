"""One of two processes: attention over a sequence that both share, against the whole of it."""

import torch

from meditron.models.megatron.attention import CausalAttention
from meditron.models.megatron.cpu import quiet_import
from meditron.models.megatron.parallel import join_group, leave_processes, set_up_megatron

with quiet_import():
    from megatron.core.utils import get_batch_on_this_cp_rank

BATCH, LENGTH, WIDTH, HEADS, GROUPS = 3, 16, 8, 4, 2


class Settings:
    kv_channels = WIDTH
    context_parallel_size = 1


def own(x_sbnd: torch.Tensor) -> torch.Tensor:
    """This process' part of the sequence."""
    return get_batch_on_this_cp_rank({"x": x_sbnd.transpose(0, 1)})["x"].transpose(0, 1)


def compare(mask: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    whole = [
        torch.randn(LENGTH, BATCH, heads, WIDTH, dtype=torch.float64) for heads in (HEADS, GROUPS, GROUPS)
    ]
    weight = torch.randn(LENGTH, BATCH, HEADS * WIDTH, dtype=torch.float64)
    settings = Settings()
    results = []
    for count in (1, 2):
        settings.context_parallel_size = count
        cut = own if count == 2 else lambda x: x
        inputs = [cut(x).clone().requires_grad_() for x in whole]
        out = CausalAttention(settings)(*inputs, mask)
        (out * cut(weight)).sum().backward()
        results.append([out, *(x.grad for x in inputs)])
    for plain, exchanged in zip(*results, strict=True):
        torch.testing.assert_close(own(plain), exchanged)


if __name__ == "__main__":
    join_group(1)
    set_up_megatron(1, 1, 0, 1, context_parallel_size=2)
    compare(None)
    document = torch.arange(LENGTH) // 5
    same = document[:, None] == document
    compare((same & torch.ones(LENGTH, LENGTH).tril().bool()).expand(BATCH, 1, LENGTH, LENGTH))
    leave_processes()
