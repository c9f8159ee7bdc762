"""Where a launch setting comes from: defaults < recipes < cluster files < command line, in whatever order."""

from itertools import permutations
from pathlib import Path

import pytest

from launch.jobs import plan_jobs
from launch.script import script
from meditron.cli import VERBS, main, name_words
from meditron.config import LaunchConfig, Recipe
from meditron.config.loading import build_parser, parse_recipe
from meditron.errors import ConfigError

CLUSTERS = Path(__file__).parents[2] / "configs" / "clusters"
RECIPE = """\
launch: {partition: recipe, account: recipe, qos: recipe, environment: {A: recipe, B: recipe}}
pretrain: {train_steps: 3}
"""
CLUSTER = """\
partition: cluster
account: cluster
environment: {A: cluster}
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    contents = {"recipe": RECIPE, "cluster": CLUSTER, "second": "account: second\n"}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in contents}


def read(*words: str) -> Recipe:
    verb = VERBS["launch"]
    return parse_recipe(build_parser("meditron launch", verb.help, verb.sections), name_words(verb, words))[0]


def test_each_source_overrides_the_one_before(files: dict[str, str]) -> None:
    given = (
        ["--config", files["recipe"]],
        [f"--cluster={files['cluster']}"],
        ["--launch.partition", "given"],
    )
    for order in permutations(given):
        launch = read(*(word for part in order for word in part)).launch
        assert (launch.partition, launch.account, launch.qos) == ("given", "cluster", "recipe")
        assert launch.environment == {"A": "cluster"}  # a cluster's environment is the whole one
        assert launch.gpus_per_node == LaunchConfig().gpus_per_node


def test_of_two_files_the_later_holds(files: dict[str, str]) -> None:
    words = ("--cluster", files["cluster"], "--cluster", files["second"], "--config", files["recipe"])
    launch = read(*words).launch
    assert (launch.partition, launch.account) == ("cluster", "second")


def test_a_cluster_file_changes_nothing_but_the_launch(files: dict[str, str]) -> None:
    recipe, with_cluster = read(files["recipe"]), read(files["recipe"], "--cluster", files["cluster"])
    assert with_cluster.pretrain.train_steps == 3
    with_cluster.launch = recipe.launch
    assert with_cluster == recipe


def test_a_recipe_needs_no_option(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "more").write_text("launch: {account: more}\n")
    more = str(tmp_path / "more")
    assert read(files["recipe"]) == read("--config", files["recipe"])
    assert read(files["recipe"], more) == read("--config", files["recipe"], "--config", more)
    assert read(files["recipe"], more).launch.account == "more"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("partitoin: gpu\n", "unknown key 'partitoin'; did you mean 'partition'?"),
        ("launch: {partition: gpu}\n", "unknown key 'launch'"),
        ("time_limit: soon\n", "launch.time_limit: 'soon' is no time limit of SLURM"),
        ("- gpu\n", "a recipe maps stages to settings, this is a list"),
        ("partition: [\n", "not valid YAML"),
    ],
)
def test_a_cluster_file_with_a_mistake_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "cluster").write_text(content)
    with pytest.raises(ConfigError) as error:
        read("--cluster", str(tmp_path / "cluster"))
    assert sentence in str(error.value)


def test_a_word_that_is_no_file_is_taken_for_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "stauts"]) == 2
    assert (
        "launch: 'stauts' is neither a file nor an action; did you mean 'status'?" in capsys.readouterr().err
    )


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_cluster_files_make_scripts(path: Path) -> None:
    recipe = read(str(Path(__file__).parent / "recipe.yaml"), "--cluster", str(path))
    for job in plan_jobs(recipe):
        assert script(job, recipe).startswith("#!/bin/bash\n#SBATCH --job-name=")
