"""What is learnt of a conversation: the answers with the end of their turn, nothing else."""

from pathlib import Path

import pytest

from finetune.chat import Chat
from meditron.errors import InputError
from tests.finetune.conftest import make_tokenizer

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "BP target?"},
    {"role": "assistant", "content": "<140 mmHg"},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def learnt(chat: Chat, messages: list[dict[str, str]]) -> str:
    encoded = chat.encode(messages)
    return chat.tokenizer.decode(encoded.ids[encoded.answer].tolist())


def test_chatml_where_the_tokenizer_has_no_usable_template(model_folder: Path) -> None:
    chat = Chat(model_folder)
    encoded = chat.encode(MESSAGES)
    assert chat.tokenizer.decode(encoded.ids.tolist()) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nBP target?<|im_end|>\n"
        "<|im_start|>assistant\n<140 mmHg<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n"
    )
    assert learnt(chat, MESSAGES) == "<140 mmHg<|im_end|>Yes.<|im_end|>"
    prompt = chat.tokenizer.apply_chat_template(MESSAGES[:2], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("BP target?<|im_end|>\n<|im_start|>assistant\n")


def test_missing_turn_tokens_are_added(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, ["</s>"])
    chat = Chat(tmp_path)
    assert learnt(chat, MESSAGES) == "<140 mmHg<|im_end|>Yes.<|im_end|>"
    assert {"<|im_start|>", "<|im_end|>"} <= set(chat.tokenizer.all_special_tokens)
    chat.tokenizer.save_pretrained(tmp_path / "saved")
    again = Chat(tmp_path / "saved")
    assert again.own_template
    assert learnt(again, MESSAGES) == learnt(chat, MESSAGES)


@pytest.mark.parametrize("end_inside", [True, False])
def test_an_own_template_with_marks_is_kept(tmp_path: Path, end_inside: bool) -> None:
    end = "</s>{% endgeneration %}" if end_inside else "{% endgeneration %}</s>"
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        + end
        + "{% else %}"
        "[{{ m.content }}]{% endif %}{% endfor %}"
    )
    make_tokenizer(tmp_path, ["</s>"], template)
    chat = Chat(tmp_path)
    assert chat.own_template
    assert chat.tokenizer.chat_template == template
    assert learnt(chat, MESSAGES) == "<140 mmHg</s>Yes.</s>"


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no tokenizer"):
        Chat(tmp_path)
