"""`meditron curate`: sources to a corpus that says where every document came from and why others went."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_curation.account import corpus_statistics, print_summary, write_quarantine
from data_curation.decide import decide, load_ledgers
from data_curation.decontaminate.benchmarks import load_items
from data_curation.decontaminate.match import build_index
from data_curation.decontaminate.verdict import Benchmarks
from data_curation.executor import Runner
from data_curation.extract import MEGABYTE, extract_steps
from data_curation.finish import assemble
from data_curation.mixture import mixture, print_mixture, tokens_of
from data_curation.plan import Plan, make_plan
from data_curation.publish import PublishChunk
from meditron.config import Recipe
from meditron.errors import InputError, QuarantineError
from meditron.files import atomic_write_text
from meditron.progress import console


def main(recipe: Recipe) -> None:
    """Curate a recipe's sources.

    Raises:
        ConfigError: no source is configured.
        InputError: a source has no files, or no document is left.
        QuarantineError: too many records cannot be read.
    """
    config = recipe.curate
    assert config.output is not None, "resolve() fills the output"
    output = Path(config.output)
    plan = make_plan(config, recipe.data_root or ".", recipe.seed)
    benchmarks = _load_benchmarks(recipe)
    if config.part is None and recipe.pretrain.shards == recipe.tokenize.output:
        _print_mixture(plan, recipe)
    # Other machines may have another current folder.
    work = open_work_folder(output.absolute(), plan, by_slurm=config.executor == "slurm")
    runner = Runner(config, recipe.launch)
    _extract(plan, recipe, work, benchmarks, runner)
    if config.part is not None:
        console().print(
            f"curate: part {config.part + 1} of {config.parts} is read; the rest is for a run without it"
        )
        return
    _check_bad_records(plan, recipe, work)
    decisions = decide(plan, recipe, work, runner, benchmarks)
    _publish(plan, work, runner)
    statistics = corpus_statistics(plan, work, decisions, config.samples_per_reason)
    if not any(source["kept"] for source in statistics.values()):
        raise InputError(_empty(statistics))
    assemble(recipe, plan, work, output, statistics, decisions)
    work.with_suffix(".lock").unlink(missing_ok=True)
    print_summary(statistics, output)


def open_work_folder(output: Path, plan: Plan, *, by_slurm: bool = False) -> Path:
    """`<output>.work`: what an interrupted run of the same plan left, or else empty.

    Raises:
        InputError: SLURM's jobs of an earlier run are at work there, and this one would not wait for them.
    """
    work = output.with_name(f"{output.name}.work")
    key = work / "plan.key"
    with _locked(work.with_suffix(".lock")):  # several parts may start at once
        is_other = work.exists() and (not key.exists() or key.read_text() != plan.key)
        if is_other or not by_slurm:
            _require_no_jobs(work)
        if is_other:
            shutil.rmtree(work)  # made from other settings or other files
        for name in ("parts", "decisions", "corpus"):
            (work / name).mkdir(parents=True, exist_ok=True)
        atomic_write_text(key, plan.key)
    return work


def _require_no_jobs(work: Path) -> None:
    if next(work.glob("*/jobs.txt"), None) is not None:
        from data_curation.executor.slurm import require_idle

        require_idle(work)


def _print_mixture(plan: Plan, recipe: Recipe) -> None:
    tokens, origin = tokens_of(plan, recipe)
    print_mixture(mixture(plan, recipe.pretrain, tokens), recipe.pretrain, origin)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; where the file system has no locks, go on without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _load_benchmarks(recipe: Recipe) -> Benchmarks | None:
    configured = recipe.curate.decontaminate.benchmarks
    items = load_items(configured, Path(recipe.data_root or "."))
    return Benchmarks(items, build_index(items)) if configured else None


def _extract(plan: Plan, recipe: Recipe, work: Path, benchmarks: Benchmarks | None, runner: Runner) -> None:
    config, folder = recipe.curate, work / "extract"
    index = benchmarks.index if benchmarks else None
    runner.run(
        extract_steps(plan, config, work / "parts", folder, index),
        sizes=[chunk.bytes / MEGABYTE for chunk in plan.chunks],
        folder=folder,
        title="reading",
        part=None if config.part is None else (config.part, config.parts),
    )


def _publish(plan: Plan, work: Path, runner: Runner) -> None:
    parts = work / "parts"
    for split in ("train", "validation"):
        (work / "corpus" / split).mkdir(exist_ok=True)
    runner.run(
        [PublishChunk(plan, parts, work / "decisions", work / "corpus", work / "publish")],
        sizes=[(parts / f"{chunk.name}.parquet").stat().st_size / MEGABYTE for chunk in plan.chunks],
        folder=work / "publish",
        title="writing",
    )


def _check_bad_records(plan: Plan, recipe: Recipe, work: Path) -> None:
    """Hold the unreadable records against the threshold; their file stays either way."""
    path = work / "quarantine.jsonl"
    write_quarantine(plan, work / "parts", path)
    ledgers = [ledger for name in plan.sources for ledger in load_ledgers(plan, work / "parts", name)]
    bad, read = sum(ledger.quarantined for ledger in ledgers), sum(ledger.read for ledger in ledgers)
    if bad > recipe.curate.max_bad_fraction * read:
        first = next(ledger.first_bad for ledger in ledgers if ledger.first_bad)
        raise QuarantineError(
            f"{bad:,} of {read:,} records ({bad / read:.2%}) cannot be read, more than "
            f"curate.max_bad_fraction = {recipe.curate.max_bad_fraction:.2%}; the first is {first}; "
            f"all are listed in {path}: mend or remove them, or raise the threshold"
        )


def _empty(statistics: dict[str, dict[str, object]]) -> str:
    read = sum(int(str(source["read"])) for source in statistics.values())
    if read == 0:
        return "curate.sources: no source holds a single record; check the paths and the files"
    reasons: dict[str, int] = {}
    for source in statistics.values():
        dropped = source["dropped"]
        assert isinstance(dropped, dict)
        for reason, count in dropped.items():
            reasons[reason] = reasons.get(reason, 0) + count
    listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
    return (
        f"curate: none of the {read:,} records is left ({listed or 'all unreadable'}); "
        "check the readers' options and curate.filters"
    )
