import csv
import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation.report.main import main
from evaluation.report.render import ASSETS, breakable, linker, moment, script_hash
from meditron import cli
from meditron.config import Recipe
from meditron.config.launch import ReportConfig
from meditron.errors import ConfigError

RecipeOf = Callable[[Path], Recipe]


def written(recipe: Recipe) -> str:
    main(recipe)
    return Path(str(recipe.report.output)).read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_else(work: Path, recipe_of: RecipeOf) -> None:
    html = written(recipe_of(work))
    tags = Tags(html).found
    assert {tag for tag, attributes in tags if "src" in attributes} == set()
    assert [attributes["href"] for tag, attributes in tags if tag == "link"] == ["data:,"]
    links = [str(attributes["href"]) for tag, attributes in tags if tag == "a"]
    assert all(link.startswith("#") or (work / link).exists() for link in links)
    style = (ASSETS / "style.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_text_of_documents_stays_text(work: Path, recipe_of: RecipeOf) -> None:
    html = written(recipe_of(work))
    assert "&lt;script&gt;window.hacked" in html  # the excerpt
    assert "\\u003cscript\\u003ewindow.hacked" in html  # the question
    assert "<script>window.hacked" not in html
    assert "<img" not in html
    script = (ASSETS / "page.js").read_bytes()
    assert f"script-src 'sha256-{script_hash(script)}'" in html


def test_all_parts_are_there(work: Path, recipe_of: RecipeOf) -> None:
    html = written(recipe_of(work))
    for text in ("guidelines_markdown", "exact duplicate", "5 min 10 s", "Gradient norm", "medqa", "McNemar"):
        assert text in html.replace("\N{NO-BREAK SPACE}", " ")
    assert "MFU</dt><dd>not reported: no peak is known" in html
    assert "not part of this recipe (finetune.data is empty)" in html
    assert "inside the intervals" in html
    assert 'href="pretrain/log.jsonl"' in html


def test_mfu_comes_with_its_formula(work: Path, recipe_of: RecipeOf) -> None:
    step = {"event": "step", "step": 1, "flops_per_second": 4.2e14, "mfu": 0.2123, "peak_flops": 989.4e12}
    (work / "pretrain" / "log.jsonl").write_text(json.dumps(step))
    html = written(recipe_of(work)).replace("\N{NO-BREAK SPACE}", " ")
    assert "21.2 % = model FLOP/s ÷ (989 TFLOP/s peak × 2 devices)" in html
    assert "<b>Model FLOP utilisation</b>" in html


@pytest.mark.parametrize("part", ["corpus", "shards", "pretrain", "results", "run.json"])
def test_a_missing_part_is_named(
    part: str, work: Path, recipe_of: RecipeOf, capsys: pytest.CaptureFixture[str]
) -> None:
    path = work / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    html = written(recipe_of(work))
    assert f"{path} does not exist" in html.replace(f"{path}: does", f"{path} does")
    assert part in capsys.readouterr().err


def test_nothing_at_all_is_still_a_page(tmp_path: Path, recipe_of: RecipeOf) -> None:
    html = written(recipe_of(tmp_path / "empty"))
    assert "There is no training and no evaluation to summarise yet." in html


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "[]"),
        ("run.json", '{"stages": {"curate": 3}}'),
        ("corpus/stats.json", "\x00"),
        ("shards/tokens.json", "{}"),
        ("pretrain/log.jsonl", "nothing"),
        ("pretrain/run.json", "{"),
        ("pretrain/config.yaml", "a: ["),
        ("pretrain/log.jsonl", '{"event": "step", "step": 1, "loss": 1.0, "seconds": 5}'),
        ("pretrain/log.jsonl", '{"event": "step", "step": 1, "loss": 1.0, "sources": [0.5]}'),
        ("results/base/results.json", "{}"),
        ("results/base/samples-medqa-letter.jsonl", "{}"),
        ("results/base/manifest.json", "{}"),
    ],
)
def test_a_damaged_file_is_one_sentence(name: str, content: str, work: Path, recipe_of: RecipeOf) -> None:
    (work / name).write_text(content)
    html = written(recipe_of(work))
    notes = json.loads((work / "report.json").read_text())["missing"]
    damaged = [note["text"] for note in notes if note["damaged"]]
    assert damaged
    assert all(text.startswith(str(work / name.split("/")[0])) for text in damaged)
    assert "<b>Damaged:</b>" in html


def test_the_numbers_as_data(work: Path, recipe_of: RecipeOf) -> None:
    page = written(recipe_of(work))
    content = json.loads((work / "report.json").read_text())
    assert all(digest in page for row in content["perplexity"] for digest in row["hashes"].values())
    assert content["pretraining"]["steps"] == 120
    assert content["pretraining"]["skipped_steps"] == [30]
    assert content["accuracy"][0]["changes"]["pretrained"]["verdict"] == "inside the intervals"
    with open(work / "report.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2 * (4 + 3)
    assert rows[0]["measure"] == "perplexity"
    assert {row["measure"]: row["protocol_hash"] for row in rows} == {
        "perplexity": "5e6f7a8b",
        "accuracy": "1a2b3c4d",
    }
    assert float(rows[1]["change"]) == pytest.approx(-32.97, abs=0.01)


def test_the_page_stays_small(work: Path, recipe_of: RecipeOf) -> None:
    step = {"event": "step", "loss": 2.123456, "grad_norm": 1.23456, "lr": 1e-4, "tokens_per_second": 1e5}
    lines = (json.dumps({**step, "step": n, "loss": 2 + n % 7 / 100}) for n in range(1, 20_001))
    (work / "pretrain" / "log.jsonl").write_text("\n".join(lines))
    assert len(written(recipe_of(work))) < 2_000_000


def test_secrets_of_the_cluster_stay_out(work: Path, recipe_of: RecipeOf) -> None:
    recipe = recipe_of(work)
    assert "hunter2" in (work / "pretrain" / "config.yaml").read_text()
    assert "hunter2" not in written(recipe)
    (work / "pretrain" / "config.yaml").unlink()
    recipe.launch.environment = {"WANDB_API_KEY": "hunter2"}
    assert "hunter2" not in written(recipe)


def test_the_facts_are_those_of_the_run_not_of_the_report(work: Path, recipe_of: RecipeOf) -> None:
    recipe = recipe_of(work)
    recipe.seed, recipe.model.base = 1, "another"
    html = written(recipe)
    assert "<dt>seed</dt><dd>99</dd>" in html
    assert "<dt>base model</dt><dd>runs/base</dd>" in html
    assert "megatron, fp32, tensor 1 × pipeline 2 × data 1; 4 sequences of 512 tokens a step" in html
    (work / "pretrain" / "config.yaml").unlink()
    assert "<dt>seed</dt><dd>not recorded</dd>" in written(recipe)


def test_half_a_surrogate_does_not_stop_it(work: Path, recipe_of: RecipeOf) -> None:
    path = work / "pretrain" / "log.jsonl"
    path.write_text(
        path.read_text() + '{"event": "validation", "step": 120, "source": "\\ud800", "loss": 1.0}\n'
    )
    assert "</html>" in written(recipe_of(work))


def test_links_are_relative_and_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    link = linker(tmp_path / "out" / "report.html")
    assert link(folder) == "../a%20b/"
    assert link(tmp_path / "nowhere") is None
    assert link(tmp_path / "out" / "report.csv") == "report.csv"


def test_names_break_where_they_may() -> None:
    assert breakable("a_b/<i>") == "a_<wbr>b/<wbr>&lt;i&gt;"


def test_moments() -> None:
    assert moment("2026-01-05T12:00:00+02:00") == "2026-01-05 10:00:00"
    assert moment("yesterday") == "yesterday"
    assert moment(None) == "not recorded"


def test_the_output_must_be_a_page() -> None:
    with pytest.raises(ConfigError, match=r"report.output: 'out.txt' must end in .html"):
        ReportConfig(output="out.txt")
    with pytest.raises(ConfigError, match="questions_per_task"):
        ReportConfig(questions_per_task=-1)


def test_the_verb_prints_the_path(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--work_dir", str(work), "--report.title", "A <b>bold</b> title"]) == 0
    assert capsys.readouterr().out.strip() == str(work / "report.html")
    assert "A &lt;b&gt;bold&lt;/b&gt; title" in (work / "report.html").read_text()
