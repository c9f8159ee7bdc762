"""The model with its loss on the assistant's tokens. Shapes: B conversations, S tokens, H width, N learnt
tokens, V vocabulary."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from finetune.batches import IGNORE
from meditron.errors import InputError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


class AnswerLoss(nn.Module):
    """A causal language model whose forward pass is the sum of the losses of the answers.

    Padding is on the right and attention looks only to the left, so no mask is needed. Logits are made
    only for the tokens that are learnt: with long questions and short answers that saves most of the
    work and memory of the output layer.
    """

    def __init__(self, language_model: "LlamaForCausalLM") -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, ids_BS: torch.Tensor, labels_BS: torch.Tensor) -> torch.Tensor:
        """Sum of the negative log-likelihoods of all labels that are not IGNORE (scalar, fp32)."""
        hidden_BSH = self.language_model.model(input_ids=ids_BS, use_cache=False).last_hidden_state
        targets_BS = labels_BS[:, 1:]
        learnt_BS = targets_BS != IGNORE
        logits_NV = self.language_model.lm_head(hidden_BSH[:, :-1][learnt_BS])
        return F.cross_entropy(logits_NV.float(), targets_BS[learnt_BS], reduction="sum")


def load_model(folder: str, vocab_size: int, recompute: bool) -> "LlamaForCausalLM":
    """Load a Llama, with its options, in fp32, with an embedding row for each of `vocab_size` tokens.

    Rows that are missing start as the mean of the others, so that a new token begins as an average one.

    Raises:
        InputError: the folder's weights cannot be read.
    """
    from transformers import AutoModelForCausalLM

    from meditron.models.options import register_with_transformers

    register_with_transformers()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        sentence = " ".join(str(error).split())
        raise InputError(
            f"{folder}: its weights cannot be read ({sentence}); export the model again"
        ) from error
    rows = model.get_input_embeddings().weight.shape[0]
    if vocab_size > rows:
        model.resize_token_embeddings(vocab_size, mean_resizing=False)
        for layer in {model.get_input_embeddings(), model.get_output_embeddings()}:
            with torch.no_grad():
                layer.weight[rows:] = layer.weight[:rows].mean(dim=0)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    tuned: LlamaForCausalLM = model
    return tuned


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters with and without weight decay: norms (vectors) have none."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
