"""`meditron tokenize`: a corpus to Megatron shards, one sequence a document, and a token table per source."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_curation.encode import EncodeSettings, Part, encode_parts
from data_curation.shards import id_type, join_parts
from meditron.config import Recipe, TokenizeConfig
from meditron.corpus import source_kinds
from meditron.errors import ConfigError, InputError, ManifestError
from meditron.files import atomic_dir, atomic_write_json, atomic_write_text
from meditron.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from meditron.progress import console
from meditron.tokenizers import Tokenizer, load_tokenizer

SPLITS = ("train", "validation")
CORPUS_FILE = re.compile(r"(?P<split>train|validation)/(?P<source>[^/]+)-\d{5,}\.parquet")
Statistics = dict[str, dict[str, Any]]


def main(recipe: Recipe) -> None:
    """Tokenize a recipe's corpus.

    An interrupted run goes on with the parts that were finished, as long as corpus and tokenizer are
    the same; shards that are already there from the same corpus and tokenizer are left alone.

    Raises:
        ManifestError: the corpus is missing or does not match its manifest.
        ConfigError, InputError: the tokenizer cannot be used, or the corpus is empty.
        DiskFullError: the disk is full; finished parts are kept.
    """
    config = recipe.tokenize
    assert config.corpus is not None, "resolve() fills the paths"
    assert config.output is not None, "resolve() fills the paths"
    corpus, output = Path(config.corpus), Path(config.output)
    tokenizer = open_tokenizer(config)
    manifest = read_manifest(corpus, kind="corpus", check_files="full")
    inputs = {"corpus": manifest.hash, "tokenizer": tokenizer.hash}
    if _is_done(output, inputs, config):
        console().print(f"{output}: already made from this corpus and tokenizer")
    else:
        work = _open_work_folder(output, inputs, config)
        parts = plan_parts(corpus, manifest, work)
        encode_parts(parts, _settings(config), config.workers)
        _assemble(recipe, parts, tokenizer, manifest, inputs)
        shutil.rmtree(work)
    print_table(json.loads((output / "tokens.json").read_text(encoding="utf-8"))["sources"])


def open_tokenizer(config: TokenizeConfig) -> Tokenizer:
    """The tokenizer of a recipe.

    Raises:
        ConfigError: it is a preset's name, which stands for a shape without a tokenizer.
        InputError: it cannot be read, or has no end-of-sequence token where one is needed.
    """
    from meditron.models.architecture import PRESETS

    name = str(config.tokenizer)
    if name in PRESETS and not Path(name).exists():
        raise ConfigError(
            f"tokenize.tokenizer: {name!r} is a preset of model.base, which has no tokenizer; give a folder "
            "with tokenizer.json or tokenizer.model, one such file, or a hub name"
        )
    tokenizer = load_tokenizer(name, config.added_tokens)
    if config.append_eos and tokenizer.eos_id is None:
        raise InputError(
            f"{name}: the tokenizer has no end-of-sequence token; name it as eos_token in its "
            "tokenizer_config.json, or set tokenize.append_eos to false"
        )
    return tokenizer


def _settings(config: TokenizeConfig) -> EncodeSettings:
    return EncodeSettings(
        tokenizer=str(config.tokenizer),
        added_tokens=tuple(config.added_tokens),
        append_eos=config.append_eos,
        batch_bytes=int(config.batch_megabytes * 2**20),
    )


def _is_done(output: Path, inputs: dict[str, str], config: TokenizeConfig) -> bool:
    """Whether `output` holds these shards already; refuses a folder that holds something else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / MANIFEST).is_file():
        raise InputError(
            f"{output}: exists and holds no shards; remove it or give another tokenize.output folder"
        )
    try:
        manifest = read_manifest(output, kind="shards", check_files="full")
    except ManifestError as error:
        if json.loads((output / MANIFEST).read_text(encoding="utf-8")).get("kind") != "shards":
            raise
        console().print(f"{error} (making it now)")
        return False
    return manifest.inputs == inputs and manifest.config["append_eos"] == config.append_eos


def _open_work_folder(output: Path, inputs: dict[str, str], config: TokenizeConfig) -> Path:
    """`<output>.work`: the parts of an interrupted run from the same inputs, or else empty."""
    work = output.with_name(f"{output.name}.work")
    key_file = work / "plan.key"
    key = hashlib.sha256(json.dumps([inputs, config.append_eos]).encode()).hexdigest()
    if work.exists() and (not key_file.exists() or key_file.read_text() != key):
        if not key_file.exists() and any(work.iterdir()):
            raise InputError(f"{work}: is in the way of temporary files; remove it")
        shutil.rmtree(work)
    atomic_write_text(key_file, key)
    return work


def plan_parts(corpus: Path, manifest: Manifest, work: Path) -> list[Part]:
    """Every row group of the corpus, in the order of the documents.

    Raises:
        InputError: a corpus file has no column `text`, or there is no document to train on.
    """
    parts = []
    for name in sorted(manifest.files):
        match = CORPUS_FILE.fullmatch(name)
        if match is None:
            continue
        split, source = match["split"], match["source"]
        for group, size in _group_sizes(corpus / name).items():
            path = work / split / f"{Path(name).stem}-{group:05d}.ids"
            parts.append(
                Part(source=source, split=split, file=corpus / name, group=group, bytes=size, path=path)
            )
    if not any(part.split == "train" for part in parts):
        raise InputError(f"{corpus}: holds no document to train on; check curate.sources")
    return parts


def _group_sizes(file: Path) -> dict[int, int]:
    """Index of each row group that has documents to the uncompressed bytes of their texts."""
    try:
        with pq.ParquetFile(file) as parquet:
            if "text" not in parquet.schema_arrow.names:
                raise InputError(f"{file}: has no column 'text'; run `meditron curate` again")
            column = parquet.schema_arrow.names.index("text")
            groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
            return {
                index: group.column(column).total_uncompressed_size
                for index, group in enumerate(groups)
                if group.num_rows
            }
    except pa.ArrowException as error:
        raise InputError(f"{file}: not a Parquet file ({error}); run `meditron curate` again") from error


def _assemble(
    recipe: Recipe, parts: list[Part], tokenizer: Tokenizer, corpus: Manifest, inputs: dict[str, str]
) -> None:
    """Join the parts to shards; one rename makes the folder visible, with its manifest."""
    config = recipe.tokenize
    dtype = id_type(tokenizer.vocab_size)
    with atomic_dir(str(config.output)) as folder:
        statistics = _join(parts, folder, dtype, source_kinds(Path(str(config.corpus))))
        tokenizer.save(folder / "tokenizer")
        tokens = {
            "sources": statistics,
            "vocab_size": tokenizer.vocab_size,
            "added_tokens": tokenizer.added,
            "eos_token_id": tokenizer.eos_id,
            "dtype": dtype.name,
        }
        atomic_write_json(folder / "tokens.json", tokens)
        write_manifest(
            folder,
            kind="shards",
            config={"tokenizer": config.tokenizer, "append_eos": config.append_eos},
            inputs=inputs,
            counts={
                key: sum(source[key] for source in statistics.values())
                for split in SPLITS
                for key in (f"{split}_documents", f"{split}_tokens")
            },
            licenses=corpus.licenses,
        )


def _join(
    parts: list[Part],
    folder: Path,
    dtype: "np.dtype[np.uint16] | np.dtype[np.int32]",
    kinds: dict[str, str],
) -> Statistics:
    """Write `<split>/<source>.bin` and `.idx` of every source that has documents in the split."""
    statistics: Statistics = {}
    for source in sorted({part.source for part in parts}):
        figures: dict[str, Any] = {"kind": kinds.get(source, "medical"), "bytes": 0}
        for split in SPLITS:
            own = [part.path for part in parts if (part.source, part.split) == (source, split)]
            lengths = join_parts(own, folder / split / source, dtype) if own else np.zeros(0, np.int32)
            tokens = int(lengths.sum(dtype=np.int64))
            figures[f"{split}_documents"], figures[f"{split}_tokens"] = len(lengths), tokens
            figures["bytes"] += tokens * dtype.itemsize
        statistics[source] = figures
    return statistics


def print_table(statistics: Statistics) -> None:
    """Print documents and tokens of every source."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="tokens per source", title_justify="left")
    for heading in ("source", "kind"):
        table.add_column(heading, overflow="fold")
    for heading in ("documents", "train tokens", "validation", "share"):
        table.add_column(heading, justify="right")
    total = sum(source["train_tokens"] for source in statistics.values())
    for name, source in statistics.items():
        table.add_row(name, source["kind"], *_cells(source, total))
    table.add_section()
    keys = [f"{split}_{what}" for split in SPLITS for what in ("documents", "tokens")]
    table.add_row("all", "", *_cells({key: sum(s[key] for s in statistics.values()) for key in keys}, total))
    Console(width=80, highlight=False).print(table)


def _cells(source: dict[str, Any], total: int) -> list[str]:
    return [
        f"{source['train_documents'] + source['validation_documents']:,}",
        f"{source['train_tokens']:,}",
        f"{source['validation_tokens']:,}",
        f"{source['train_tokens'] / max(total, 1):.1%}",
    ]
