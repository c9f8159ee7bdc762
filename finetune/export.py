"""The tuned model as a Hugging Face folder, with the tokenizer that carries its chat template."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from meditron.errors import ManifestError
from meditron.files import atomic_dir
from meditron.manifest import MANIFEST, read_manifest, write_manifest

if TYPE_CHECKING:
    from finetune.chat import Chat
    from finetune.train import Job


def is_exported(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the result of exactly this run already."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        manifest = read_manifest(folder, kind="model")
    except ManifestError:
        return False  # it is made again from the last checkpoint
    return (manifest.inputs, manifest.config) == (identity["inputs"], identity["config"])


def export(job: "Job", chat: "Chat") -> None:
    """Write `<run_dir>/model` on the main process; the others wait."""
    accelerator = job.accelerator
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        model: Any = accelerator.unwrap_model(job.model).language_model
        _set_turn_end(model, chat)
        model.to(getattr(torch, job.config.dtype or _stored_dtype(str(job.config.model))))
        with atomic_dir(job.run.path / "model") as folder:
            model.save_pretrained(folder)
            chat.tokenizer.save_pretrained(folder)
            write_manifest(
                folder,
                kind="model",
                config=job.identity["config"],
                inputs=job.identity["inputs"],
                counts={"parameters": model.num_parameters(), "step": job.step, "tokens": job.tokens},
                licenses=_licenses(Path(str(job.config.model))),
                extra={"data": job.train.as_record(), "chat_template": chat.template_name},
            )
    accelerator.wait_for_everyone()


def _set_turn_end(model: Any, chat: "Chat") -> None:  # noqa: ANN401 - a LlamaForCausalLM
    """Let generation end at the end of a turn, besides where it ended before."""
    if chat.turn_end_id is None:
        return
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    model.generation_config.eos_token_id = sorted({*ends, chat.turn_end_id})


def _stored_dtype(folder: str) -> str:
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(folder, local_files_only=True).dtype
    return "bfloat16" if stored in (torch.bfloat16, torch.float16) else "float32"


def _licenses(folder: Path) -> Mapping[str, str]:
    if not (folder / MANIFEST).is_file():
        return {}
    return read_manifest(folder, kind="model", check_files="none").licenses
