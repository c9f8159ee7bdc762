"""Llama with landmark attention for transformers. Exported folders carry this file and those it imports.

Callers see regular tokens only: landmarks are put in on the way in and taken out on the way out, so that
losses, perplexities, `generate` and evaluation work as for any other model. The landmark is never a
target, has no loss, and the token before it predicts the next regular one. Inputs beyond the trained
window, and generation, go through the memory of blocks (`memory.py`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from .attention import landmark_attention
from .memory import LandmarkMemory
from .retrieval import RETRIEVALS
from .slots import Slots, lay_out


class LandmarkLlamaConfig(LlamaConfig):  # type: ignore[no-untyped-call]
    """`LlamaConfig` with the settings of landmark attention; see the option's own configuration."""

    model_type = "landmark_llama"

    landmark_block_size: int = 63
    landmark_window: int = 512
    landmark_top_k: int = 4
    landmark_retrieval: str = "head_token"
    landmark_offload: bool = False
    landmark_max_context: int = 32768
    landmark_token_id: int | None = None
    landmark_dense: bool = False
    """Attend to the whole of any input at once, as in training; to measure what retrieval adds."""

    def check_retrieval(self) -> None:
        """Refuse what does not fit together; settings may have been changed since the model was exported.

        Raises:
            ValueError: an unknown way of retrieval, or a window that does not hold what is retrieved.
        """
        if self.landmark_retrieval not in RETRIEVALS:
            known = ", ".join(RETRIEVALS)
            raise ValueError(f"landmark_retrieval: {self.landmark_retrieval!r} is none of {known}")
        least = (self.landmark_top_k + 3) * (self.landmark_block_size + 1)
        if self.landmark_top_k < 0 or self.landmark_window < least:
            raise ValueError(
                f"landmark_top_k: {self.landmark_top_k} blocks do not fit landmark_window = "
                f"{self.landmark_window}, which must hold 3 blocks more ({least} slots)"
            )


class LandmarkLlamaAttention(LlamaAttention):
    """`LlamaAttention` over slots: the whole sequence, or new slots with a memory of blocks."""

    block_size: int

    def forward(  # type: ignore[override]  # another kind of cache
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: LandmarkMemory | None = None,
        **_: Any,  # noqa: ANN401 - what transformers passes along
    ) -> tuple[Tensor, None]:
        """hidden_states [B, T, hidden] to the same shape."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (
            projection(hidden_states).view(shape).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if past_key_values is None:
            assert position_embeddings is not None
            q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
            out = landmark_attention(q, k, v, self.block_size, self.scaling)
        else:
            out = past_key_values.attend(self.layer_idx, q, k, v, self.scaling)
        return self.o_proj(out.transpose(1, 2).flatten(2)), None


def exchange_attention(layer: nn.Module, block_size: int) -> None:
    """Make a `LlamaDecoderLayer` attend over slots; its weights stay."""
    attention: Any = layer.self_attn
    attention.__class__ = LandmarkLlamaAttention
    attention.block_size = block_size


class LandmarkLlamaModel(LlamaModel):  # type: ignore[no-untyped-call]
    """`LlamaModel` that takes and returns regular tokens and works on slots."""

    config_class = LandmarkLlamaConfig

    def __init__(self, config: LandmarkLlamaConfig) -> None:
        super().__init__(config)
        config.check_retrieval()
        for layer in self.layers:
            exchange_attention(layer, config.landmark_block_size)

    def new_memory(self) -> LandmarkMemory:
        """An empty memory with the configuration's settings."""
        config = self.config
        config.check_retrieval()
        return LandmarkMemory(
            self.rotary_emb,
            config.landmark_block_size,
            config.landmark_top_k,
            config.landmark_retrieval,
            config.landmark_offload,
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: LandmarkMemory | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,  # noqa: ANN401 - what transformers passes along
    ) -> BaseModelOutputWithPast:
        """Hidden states of regular tokens, [B, S, hidden].

        Args:
            input_ids: regular tokens [B, S], padded on either side.
            attention_mask: 0 where a token is padding, [B, S] or with the tokens read before.
            position_ids: without effect; positions follow from the slots.
            past_key_values: what was read before.
            inputs_embeds: not supported, for landmarks are put in among tokens.
            use_cache: keep what is read.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("LandmarkLlama: takes input_ids, not inputs_embeds; give token ids")
        config, memory = self.config, past_key_values
        if memory is None and use_cache and not self.training and not config.landmark_dense:
            memory = self.new_memory()
        mask_BS = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        tails = memory.tails if memory is not None and memory.tails else [0] * len(input_ids)
        tail_B = torch.tensor(tails, device=input_ids.device)
        size = config.landmark_block_size
        slots = lay_out(input_ids, mask_BS, tail_B, size, config.landmark_token_id)
        if memory is None:
            hidden = self._forget(slots)
        else:
            hidden = self._read(slots, memory)
            memory.tokens += input_ids.shape[1]
        place = slots.slot_of[..., None].expand(-1, -1, hidden.shape[-1])
        cache: Any = memory
        return BaseModelOutputWithPast(last_hidden_state=hidden.gather(1, place), past_key_values=cache)

    def _forget(self, slots: Slots) -> Tensor:
        """Each row as if it were alone: whole where it fits the window, else through a memory of its own."""
        whole_B = slots.counts <= self.config.landmark_window
        if self.training or self.config.landmark_dense or whole_B.all():
            return self._pass(slots.ids, None)
        hidden = self.embed_tokens.weight.new_zeros(*slots.ids.shape, self.config.hidden_size)
        for rows_B in (whole_B, ~whole_B):
            if rows_B.any():
                length = int(slots.counts[rows_B].max())
                own = Slots(slots.ids[rows_B, :length], slots.counts[rows_B], slots.slot_of[rows_B])
                read = self._pass(own.ids, None) if rows_B is whole_B else self._read(own, self.new_memory())
                hidden[rows_B, :length] = read
        return hidden

    @property
    def _room(self) -> int:
        """Slots of a chunk and of the unfinished block before it."""
        config = self.config
        retrieved = (config.landmark_top_k + 1) * (config.landmark_block_size + 1)
        return int(config.landmark_window - retrieved)

    def chunk_end(self, tokens: int, length: int) -> int:
        """The last place among the first `tokens` of `length` where a chunk ends; 0 where none does.

        The input is read the same if what is before that place was read earlier. One that fits the window
        has no chunks.
        """
        size, end, start = self.config.landmark_block_size, 0, 0
        if self.config.landmark_dense or length + length // size <= self.config.landmark_window:
            return 0
        while True:
            start += self._room - start % (size + 1)
            regular = start - start // (size + 1)
            if regular > tokens:
                return end
            if start % (size + 1) != size:  # else its landmark, which comes with the last token, is cut off
                end = regular

    def _read(self, slots: Slots, memory: LandmarkMemory) -> Tensor:
        """All slots in chunks, each of which fits the trained window with what it retrieves."""
        outputs, start, room = [], 0, self._room
        while start < slots.ids.shape[1]:
            # Of the rows that go on, so that no row's chunks depend on where another one ends.
            left = zip(memory.tails, slots.counts.tolist(), strict=False)
            stop = start + room - max((tail for tail, count in left if count > start), default=0)
            ids_BT = slots.ids[:, start:stop]
            memory.begin((slots.counts - start).clamp(0, ids_BT.shape[1]), self.embed_tokens.weight)
            outputs.append(self._pass(ids_BT, memory))
            memory.end()
            start = stop
        return torch.cat(outputs, 1)

    def _pass(self, ids_BT: Tensor, memory: LandmarkMemory | None) -> Tensor:
        hidden = self.embed_tokens(ids_BT)
        places = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
        rotary = None if memory is not None else self.rotary_emb(hidden, position_ids=places)
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=rotary, past_key_values=memory)
        normed: Tensor = self.norm(hidden)
        return normed


class LandmarkLlamaForCausalLM(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """`LlamaForCausalLM` over `LandmarkLlamaModel`."""

    config_class = LandmarkLlamaConfig

    def __init__(self, config: LandmarkLlamaConfig) -> None:
        super().__init__(config)
        self.model = LandmarkLlamaModel(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _prepare_cache_for_generation(  # type: ignore[override]  # transformers' own returns nothing too
        self,
        generation_config: Any,  # noqa: ANN401 - transformers' own
        model_kwargs: dict[str, Any],
        *_: Any,  # noqa: ANN401
    ) -> None:
        """`generate` gets a memory; the landmark, which the model puts in itself, is never sampled."""
        never = generation_config.suppress_tokens or []
        generation_config.suppress_tokens = [*never, self.config.landmark_token_id]
        if self.config.landmark_dense:
            generation_config.use_cache = False
        elif model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = self.model.new_memory()


def register() -> None:
    """Make the Auto classes know both, and let `save_pretrained` write these files beside the weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    AutoConfig.register("landmark_llama", LandmarkLlamaConfig, exist_ok=True)
    AutoModelForCausalLM.register(LandmarkLlamaConfig, LandmarkLlamaForCausalLM, exist_ok=True)
    LandmarkLlamaConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
    LandmarkLlamaForCausalLM.register_for_auto_class("AutoModelForCausalLM")  # type: ignore[no-untyped-call]
