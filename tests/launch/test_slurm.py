import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.jobs import plan_jobs
from launch.script import launch_folder, script
from launch.slurm import dry_run, main
from meditron.cli import main as command_line
from meditron.config import FinetuneConfig, LaunchConfig, Recipe, resolve
from meditron.config.launch import OWN_OPTIONS, slurm_seconds
from meditron.config.loading import load_recipe
from meditron.config.pretrain import ParallelConfig, PretrainConfig
from meditron.errors import ConfigError, EnvironmentMissingError

HERE = Path(__file__).parent
HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "a\n#SBATCH --uid=0",
    "\ntouch pwned\n",
    "$HOME ${PATH} * ~ !! \\",
    "--export=NONE",
    "a b\tc",
    "",
    "#SBATCH --nodes=99",
    "%j %% \\%",
    "&& touch pwned || true",
    "> pwned",
    "\x00",
    "\r",
    "\u2028touch pwned",
)
texts = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=20), st.text("'\"\\$`;\n#&|<>(){}* ~!", max_size=12)
)
lines = texts.filter(lambda text: text.isprintable())

RECORDING = """#!/bin/bash
{ printf '%s\\0' "$@"; printf 'NOTE=%s\\0TMPDIR=%s\\0' "$NOTE" "$TMPDIR"; } > "$RECORD"
"""


def small(launch: LaunchConfig, work_dir: str = "runs/x", **parallel: int) -> Recipe:
    layout = ParallelConfig(**parallel)
    size = max(layout.data_parallel_size, 1) * 8
    pretrain = PretrainConfig(train_steps=5, parallel=layout, global_batch_size=size)
    return resolve(Recipe(work_dir=work_dir, launch=launch, pretrain=pretrain))


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("nodes", ()),
        ("minimal", ("--launch", "{gpus_per_node: 8, python: python3}", "--finetune.data", "[]")),
        (
            "container",
            (
                "--launch.container", "[apptainer, exec, --nv, my image.sif]", "--launch.srun_options",
                "['--container-image=a b']", "--launch.requeue", "false", "--launch.nodes", "8",
                "--launch.setup", "[]", "--launch.sbatch_options", "['--constraint=a100&ib', --exclusive]",
            ),
        ),
    ],
)  # fmt: skip
def test_scripts_are_the_golden_ones(name: str, overrides: tuple[str, ...]) -> None:
    recipe = load_recipe(HERE / "recipe.yaml", overrides)
    jobs = plan_jobs(recipe)
    text = dry_run(jobs, {job.name: script(job, recipe) for job in jobs}, launch_folder(recipe))
    golden = HERE / "golden" / f"{name}.txt"
    if os.environ.get("MEDITRON_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), "after a wanted change: MEDITRON_WRITE_GOLDEN=1, then read the diff"


def test_dry_run_prints_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line(["launch", "--config", str(HERE / "recipe.yaml"), "--launch.dry_run", "true"]) == 0
    assert capsys.readouterr().out == (HERE / "golden" / "nodes.txt").read_text()
    assert list(tmp_path.iterdir()) == []


def stubs(folder: Path) -> dict[str, str]:
    """A PATH whose srun writes down what it was given."""
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    for name, body in (("srun", RECORDING), ("scontrol", "#!/bin/bash\necho node1\n")):
        (commands / name).write_text(body)
        (commands / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1"}
    return {"PATH": f"{commands}:/usr/bin:/bin", "RECORD": str(folder / "record"), **job}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(note=lines, scratch=lines.filter(bool), python=lines.filter(bool), word=lines, option=lines)
def test_no_value_breaks_out_of_the_script(
    tmp_path: Path, note: str, scratch: str, python: str, word: str, option: str
) -> None:
    launch = LaunchConfig(
        gpus_per_node=0,
        environment={"NOTE": note},
        scratch=scratch,
        python=python,
        container=["exec", word],
        srun_options=[option],
    )
    text = pretrain_script(launch)
    assert directives(text) == directives(pretrain_script(LaunchConfig(gpus_per_node=0)))
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    environment = stubs(tmp_path)
    (tmp_path / "runs/x/launch/done").mkdir(parents=True, exist_ok=True)
    subprocess.run(["bash"], input=text, text=True, check=True, cwd=tmp_path, env=environment)
    *arguments, noted, temporary, end = (tmp_path / "record").read_text().split("\0")
    assert end == ""
    assert noted == f"NOTE={note}"
    assert temporary == f"TMPDIR={scratch}"
    assert arguments[3] == option
    recipe_path = "runs/x/launch/recipe.yaml"
    expected = ["exec", word, python, "-m", "meditron", "pretrain", "--config", recipe_path]
    assert arguments[-len(expected) :] == expected
    assert not (tmp_path / "pwned").exists()


def pretrain_script(launch: LaunchConfig) -> str:
    recipe = small(launch, data_parallel_size=2)
    return next(script(job, recipe) for job in plan_jobs(recipe) if job.stage == "pretrain")


def directives(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#SBATCH")]


@settings(max_examples=80, deadline=None)
@given(value=texts.filter(lambda text: not text.replace("\t", "").isprintable()))
@pytest.mark.parametrize("name", ["setup", "container", "srun_options", "environment", "python", "scratch"])
def test_line_breaks_and_control_characters_are_refused(name: str, value: str) -> None:
    wrapped = {"environment": {"A": value}, "python": value, "scratch": value}.get(name, [value])
    with pytest.raises(ConfigError, match=rf"launch\.{name}.* holds a line break or another control"):
        LaunchConfig(**{name: wrapped})


EVERYTHING = LaunchConfig(
    partition="a", account="a", qos="a", cpus_per_task=2, memory="1G", sbatch_options=["--exclusive"]
)
UNSAFE = set("\n\r'\"\\$`; #&|<>(){}*~!%\t\0")


@settings(max_examples=80, deadline=None)
@given(value=texts.filter(lambda text: bool(set(text) & (UNSAFE - set("&|()*%"))) or not text))
def test_options_of_sbatch_are_plain(value: str) -> None:
    for option in (value, f"--comment={value}"):
        with pytest.raises(
            ConfigError, match=r"launch\.sbatch_options: .* is no plain --name or --name=value"
        ):
            LaunchConfig(sbatch_options=[option])


def test_the_launcher_s_own_options_cannot_be_overridden() -> None:
    written = {
        line.removeprefix("#SBATCH --").split("=")[0] for line in directives(pretrain_script(EVERYTHING))
    }
    assert written - {"exclusive"} <= set(OWN_OPTIONS)
    for name in OWN_OPTIONS:
        with pytest.raises(ConfigError, match="is set by the launcher"):
            LaunchConfig(sbatch_options=[f"--{name}=1"])


@settings(max_examples=80, deadline=None)
@given(value=texts.filter(lambda text: bool(set(text) & UNSAFE) or not text))
@pytest.mark.parametrize(
    "name", ["job_name", "partition", "cpu_partition", "account", "qos", "memory", "time_limit"]
)
def test_headers_take_only_plain_values(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"launch\.{name}: "):
        LaunchConfig(**{name: value})


@pytest.mark.parametrize("work_dir", ["a b", "a\n#SBATCH --nodes=9", "a%j", "-x", "$(date)", "a'b", ""])
def test_a_folder_that_sbatch_would_misread_is_refused(work_dir: str) -> None:
    with pytest.raises(ConfigError, match=r"work_dir: .* cannot be the place of SLURM's logs"):
        main(small(LaunchConfig(dry_run=True), work_dir=work_dir))


def test_setup_that_is_no_shell_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"launch\.setup: .* is no valid shell"):
        main(small(LaunchConfig(dry_run=True, setup=["if true; then"])))


@pytest.mark.parametrize(
    ("settings", "layout", "size"),
    [
        ({"gpus_per_node": 4}, {"tensor_model_parallel_size": 4, "data_parallel_size": 4}, (4, 4)),
        ({"gpus_per_node": 8}, {"data_parallel_size": 2}, (1, 2)),
        ({"gpus_per_node": 8}, {}, (1, 1)),
        ({"gpus_per_node": 8, "nodes": 4}, {"data_parallel_size": 8}, (4, 2)),
        ({"gpus_per_node": 0, "nodes": 2}, {"data_parallel_size": 8}, (2, 4)),
        ({"gpus_per_node": 0}, {"data_parallel_size": 8}, (1, 8)),
    ],
)
def test_nodes_follow_from_the_layout(settings: dict, layout: dict, size: tuple[int, int]) -> None:
    job = plan_jobs(small(LaunchConfig(**settings), **layout))[0]
    assert (job.nodes, job.tasks_per_node) == size
    assert job.gpus_per_node == (size[1] if settings["gpus_per_node"] else 0)


@pytest.mark.parametrize(
    "settings", [{"gpus_per_node": 4}, {"nodes": 4}, {"nodes": 1, "gpus_per_node": 4}, {"nodes": 12}]
)
def test_a_layout_that_leaves_gpus_idle_or_missing_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=r"= 6 processes do not fit evenly on \d+ node"):
        plan_jobs(small(LaunchConfig(**settings), data_parallel_size=6))


def test_finetuning_stays_on_one_node() -> None:
    recipe = small(LaunchConfig(gpus_per_node=4))
    recipe.finetune = FinetuneConfig(data=["x"], nproc=5, global_batch_size=64)
    with pytest.raises(ConfigError, match=r"finetune\.nproc: 5 processes need a GPU each, a node has 4"):
        plan_jobs(resolve(recipe))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"time_limit": "soon"}, "launch.time_limit: 'soon' is no time limit of SLURM"),
        ({"time_limit": "5"}, "launch.signal_seconds: 300 must be at least 1, and a minute less"),
        ({"signal_seconds": 0}, "launch.signal_seconds: 0 must be"),
        ({"memory": "64 GB"}, "launch.memory: '64 GB' must be a number"),
        ({"environment": {"A B": "x"}}, "launch.environment: 'A B' is no name"),
        ({"environment": {"A": "x\ny"}}, "launch.environment.A: 'x\\ny' holds a line break"),
        ({"setup": ["a\nb"]}, "launch.setup: 'a\\nb' holds a line break"),
        ({"nodes": 0}, "launch.nodes: 0 must be at least 1"),
        ({"python": ""}, "launch.python: '' is empty"),
    ],
)
def test_impossible_values_are_refused(settings: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        LaunchConfig(**settings)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("30:10", 1810), ("12:00:00", 43200), ("1-0", 86400), ("1-12", 129600),
     ("2-01:30", 178200), ("0-00:00:05", 5), ("1:2:3:4", None), ("", None), ("1-", None)],
)  # fmt: skip
def test_time_limits_are_read_as_slurm_reads_them(text: str, seconds: int | None) -> None:
    assert slurm_seconds(text) == seconds


def only_bash(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "bash").symlink_to(shutil.which("bash") or "/bin/bash")
    monkeypatch.setenv("PATH", str(folder))


def test_without_slurm_it_says_what_else_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_bash(tmp_path / "bin", monkeypatch)
    with pytest.raises(EnvironmentMissingError, match="sbatch is not on the PATH; start this on a login"):
        main(small(LaunchConfig(), work_dir=str(tmp_path / "work")))
    assert not (tmp_path / "work").exists()


def test_the_default_python_is_this_one() -> None:
    recipe = small(LaunchConfig())
    assert sys.executable in script(plan_jobs(recipe)[0], recipe)
