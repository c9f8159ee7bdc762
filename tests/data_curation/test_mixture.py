"""The plan of the mixture: shares and epochs, from whatever is known of the tokens."""

import json
from pathlib import Path

import pytest

from data_curation.curate import main
from data_curation.mixture import Share, mixture, print_mixture, tokens_of
from data_curation.plan import make_plan
from meditron.cli import main as meditron
from meditron.config import CurateConfig, Recipe, SourceConfig
from meditron.config.recipe import resolve
from meditron.errors import ConfigError


def recipe_for(folder: Path) -> Recipe:
    for name, count in (("notes", 30), ("books", 10)):
        texts = [f"{name} {n}: give {n * 7} mg of drug{n} daily, then stop. " * 4 for n in range(count)]
        lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    sources = {
        "notes": SourceConfig(path="notes.jsonl", reader="jsonl"),
        "books": SourceConfig(path="books.jsonl", reader="jsonl", kind="general"),
    }
    return resolve(
        Recipe(work_dir=str(folder / "work"), data_root=str(folder), curate=CurateConfig(sources=sources))
    )


def test_shares_and_epochs_follow_the_weights(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    recipe.pretrain.weights = {"notes": 3, "books": 1}
    recipe.pretrain.train_steps, recipe.pretrain.global_batch_size = 10, 2
    recipe.pretrain.sequence_length = 100
    plan = make_plan(recipe.curate, tmp_path, recipe.seed)
    shares = mixture(plan, recipe.pretrain, {"notes": 3000, "books": 250})
    assert [(s.source, s.share, s.drawn, s.epochs) for s in shares] == [
        ("notes", 0.75, 1500, 0.5),
        ("books", 0.25, 500, 2.0),
    ]
    recipe.pretrain.weights = {}
    assert [s.share for s in mixture(plan, recipe.pretrain, {"notes": 300, "books": 100})] == [0.75, 0.25]
    recipe.pretrain.weights = {"note": 1.0}
    with pytest.raises(ConfigError, match=r"pretrain\.weights\.note: .* there are notes, books"):
        mixture(plan, recipe.pretrain, {"notes": 1, "books": 1})


def test_tokens_are_known_better_from_step_to_step(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    plan = make_plan(recipe.curate, tmp_path, recipe.seed)
    before, origin = tokens_of(plan, recipe)
    assert "size of the input" in origin
    main(recipe)
    after, origin = tokens_of(plan, recipe)
    assert "characters" in origin
    for name in plan.sources:
        assert before[name] == pytest.approx(after[name], rel=0.5)


def test_repeating_too_often_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    share = Share(source="notes", kind="medical", tokens=100, share=1.0, drawn=900)
    print_mixture([share], recipe_for(tmp_path).pretrain, "counted")
    assert "warning: notes is seen 9.0 times" in " ".join(capsys.readouterr().err.split())


def test_the_plan_writes_nothing_and_the_switch_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_for(tmp_path)
    (tmp_path / "r.yaml").write_text(
        "curate: {sources: {notes: {path: notes.jsonl, reader: jsonl}, "
        "books: {path: books.jsonl, reader: jsonl}}}"
    )
    given = ["--config", f"{tmp_path}/r.yaml", "--data_root", str(tmp_path), "--work_dir", f"{tmp_path}/w"]
    assert meditron(["curate", "plan", *given]) == 0
    assert "mixture of pretraining" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
    assert meditron(["curate", "--audit", *given]) == 0
    rows = json.loads((tmp_path / "w" / "corpus" / "stats.json").read_text())["sources"]
    assert rows["notes"]["survival"]["share"] == 1.0
