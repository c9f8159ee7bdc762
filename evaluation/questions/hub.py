"""Questions of the Hugging Face hub, written out as the files that are read everywhere else.

A path `hub:owner/name:split` or `hub:owner/name:configuration:split` names a data set. What it holds is
written to the cache of `datasets` once, so that the results carry the hash of what was asked.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meditron.errors import ConfigError, InputError
from meditron.files import atomic_write

PREFIX = "hub:"


def local_path(path: str, root: Path) -> Path:
    """The file of a path under `root`, or of a data set of the hub.

    Raises:
        ConfigError: a `hub:` path without data set or split.
        InputError: the data set cannot be loaded.
    """
    return _written_out(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else root / path


def _written_out(name: str) -> Path:
    parts = name.split(":")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise ConfigError(
            f"evaluate.tasks.path: {PREFIX}{name} is no hub:owner/name:split or "
            "hub:owner/name:configuration:split; correct it"
        )
    data_set, *configuration, split = parts
    import datasets
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        rows = datasets.load_dataset(data_set, *configuration, split=split)
    except Exception as error:  # the hub's client raises what its transports raise
        reason = " ".join(str(error).split())
        raise InputError(
            f"{PREFIX}{name}: cannot be loaded ({reason}); check its name and the network, or give a file"
        ) from error
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "meditron"
    path = folder / f"{data_set.strip('/').replace('/', '--')}-{split}-{rows._fingerprint}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as handle:
            handle.write(_as_file(list(rows)).encode())
    return path


def _as_file(rows: list[Mapping[str, Any]]) -> str:
    """JSON lines; PubMedQA as the original's object by PMID."""
    if rows and "pubid" in rows[0]:
        return json.dumps({str(row["pubid"]): _pubmedqa(row) for row in rows}, ensure_ascii=False)
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _pubmedqa(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "QUESTION": row["question"],
        "CONTEXTS": row["context"]["contexts"],
        "final_decision": row["final_decision"],
    }
