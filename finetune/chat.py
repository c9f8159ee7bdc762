"""From a conversation to token ids, and which of them are the assistant's to learn.

A tokenizer's own chat template is used where it marks the assistant's words with
`{% generation %}`; otherwise the conversation is written in ChatML, and the exported tokenizer
carries that template.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from meditron.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""ChatML, with the assistant's words and the end of its turn marked as what is generated."""
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A conversation as tokens."""

    ids: npt.NDArray[np.int32]
    """Token ids, [tokens]."""
    answer: npt.NDArray[np.bool_]
    """True where the token is the assistant's (the end of its turn included), [tokens]."""


class Chat:
    """A tokenizer together with the chat template that training and later use share.

    Args:
        folder: Hugging Face folder with the tokenizer.

    Raises:
        InputError: the folder holds no tokenizer.
    """

    def __init__(self, folder: str | Path) -> None:
        self.tokenizer = _load(folder)
        self.own_template = bool(GENERATION_MARK.search(str(self.tokenizer.chat_template or "")))
        """Whether the tokenizer's own template is in use, not ChatML."""
        if not self.own_template:
            self._use_chatml()
        self._special = np.array(sorted(set(self.tokenizer.all_special_ids)), np.int32)

    def _use_chatml(self) -> None:
        known = self.tokenizer.get_vocab()
        new = [token for token in (TURN_START, TURN_END) if token not in known]
        if new:
            self.tokenizer.add_special_tokens({"additional_special_tokens": new})
        starts_with_bos = self.tokenizer("x")["input_ids"][0] == self.tokenizer.bos_token_id
        self.tokenizer.chat_template = "{{- bos_token -}}" + CHATML if starts_with_bos else CHATML

    @property
    def template_name(self) -> str:
        """Which template is in use, for the record."""
        return "the tokenizer's own" if self.own_template else "ChatML"

    @property
    def turn_end_id(self) -> int | None:
        """Id that ends an assistant's turn in ChatML; None where the own template decides."""
        if self.own_template:
            return None
        return self.tokenizer.get_vocab()[TURN_END]

    def encode(self, messages: list[Message]) -> Encoded:
        """Tokens of a conversation; the end-of-turn token after each answer is part of the answer."""
        out: Any = self.tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = np.array(out["input_ids"], np.int32)
        answer = np.array(out["assistant_masks"], np.bool_)
        # A template may close its generation block before the token that ends the turn.
        follows = np.concatenate([[False], answer[:-1] & ~answer[1:]])
        return Encoded(ids=ids, answer=answer | (follows & np.isin(ids, self._special)))


def _load(folder: str | Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        sentence = " ".join(str(error).split())
        raise InputError(
            f"{folder}: holds no tokenizer that transformers reads ({sentence}); export the model again"
        ) from error
