"""The whole stage on a tiny model: results, resuming, skipping, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.adapter.score import TreeScorer
from evaluation.main import main, make_plan
from launch.stages import BY_NAME
from meditron import cli
from meditron.config import (
    EvaluateConfig,
    GenerationConfig,
    PasskeyConfig,
    PerplexityConfig,
    Recipe,
    TaskConfig,
    VariantConfig,
    resolve,
)
from meditron.config.loading import dump_recipe
from meditron.errors import ConfigError, InputError, ManifestError, QuarantineError
from meditron.manifest import MANIFEST, read_manifest
from tests.evaluation.conftest import medqa_record, write_lines
from tests.finetune.conftest import make_model, make_tokenizer


def results(recipe: Recipe, label: str = "base") -> dict[str, Any]:
    content = json.loads((Path(str(recipe.evaluate.output)) / label / "results.json").read_text())
    assert isinstance(content, dict)
    return content


def samples(recipe: Recipe, name: str) -> list[dict[str, Any]]:
    path = Path(str(recipe.evaluate.output)) / "base" / f"samples-{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_say_what_was_asked_and_how_sure_the_answer_is(recipe: Recipe) -> None:
    main(recipe)
    content = results(recipe)
    assert [(e["task"], e["protocol"], e["n"]) for e in content["tasks"]] == [
        ("medqa", "letter", 8),
        ("medqa", "answer", 8),
        ("pubmedqa", "letter", 4),
        ("pubmedqa", "answer", 4),
        ("mmlu", "letter", 6),
        ("mmlu", "answer", 6),
    ]
    entry = content["tasks"][4]
    assert entry["shots"] == 2
    assert entry["chance"] == pytest.approx(0.25)
    assert entry["accuracy"] == entry["correct"] / entry["n"]
    assert entry["ci"][0] <= entry["accuracy"] <= entry["ci"][1]
    assert set(entry["file_sha256"]) == {
        f"mmlu/{split}/{subject}_{split}.csv"
        for split in ("test", "dev")
        for subject in ("anatomy", "virology")
    }
    assert sum(own["correct"] for own in entry["subjects"].values()) == entry["correct"]
    assert content["model"]["label"] == "base"
    assert content["dtype"] == "float32"
    assert [(e["source"], e["kind"]) for e in content["perplexity"]] == [
        ("articles", "medical"),
        ("essays", "general"),
    ]
    manifest = read_manifest(Path(str(recipe.evaluate.output)) / "base", kind="results", check_files="full")
    assert set(manifest.inputs) > {"model", "corpus", "medqa.jsonl"}
    assert manifest.counts["questions"] == 36


def test_samples_hold_what_the_accuracy_is_made_of(recipe: Recipe) -> None:
    main(recipe)
    content = results(recipe)
    for entry in content["tasks"]:
        own = samples(recipe, f"{entry['task']}-{entry['protocol']}")
        assert sum(sample["correct"] for sample in own) == entry["correct"]
        for sample in own:
            assert sample["correct"] == (sample["prediction"] == sample["answer"])
            assert sum(sample["probabilities"]) == pytest.approx(1.0)
            assert sample["probabilities"].index(max(sample["probabilities"])) == sample["prediction"]
    longest = max(samples(recipe, "medqa-answer"), key=lambda sample: min(sample["logprobs"]))
    per_character = [p / len(o) for p, o in zip(longest["logprobs"], longest["options"], strict=True)]
    assert per_character.index(max(per_character)) == longest["prediction"]


def test_a_model_is_evaluated_once(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    main(recipe)
    manifest = Path(str(recipe.evaluate.output)) / "base" / MANIFEST
    before = manifest.read_bytes()
    capsys.readouterr()
    main(recipe)
    assert manifest.read_bytes() == before
    captured = capsys.readouterr()
    assert "already evaluated" in captured.err
    assert results(recipe)["perplexity"][0]["protocol_hash"] in captured.out
    assert "medqa" in captured.out
    assert max(len(line) for line in captured.out.splitlines()) <= 80
    medqa = Path(str(recipe.data_root)) / "medqa.jsonl"
    write_lines(medqa, [medqa_record(number) for number in range(9)])
    main(recipe)
    content = results(recipe)
    assert content["tasks"][0]["n"] == 9
    assert content["answers"]["computed"] == 8  # one more question: four letters and four texts


def test_a_killed_evaluation_goes_on(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.evaluate.batch_tokens = 256
    main(recipe)
    straight = results(recipe)
    folder = Path(str(recipe.evaluate.output))
    shutil.rmtree(folder)
    shutil.rmtree(f"{folder}.cache")
    original, passes = TreeScorer._pass, 0

    def killed(self: TreeScorer, *arguments: Any, **named: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == 8:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    monkeypatch.setattr(TreeScorer, "_pass", killed)
    with pytest.raises(KeyboardInterrupt):
        main(recipe)
    monkeypatch.undo()
    assert not (folder / "base").exists()
    main(recipe)
    resumed = results(recipe)
    assert resumed["answers"]["from_cache"] > 0
    for old, new in zip(straight["tasks"], resumed["tasks"], strict=True):
        for key in ("task", "protocol", "protocol_hash", "correct", "ci", "subjects", "position"):
            assert old[key] == new[key]
    for old, new in zip(straight["perplexity"], resumed["perplexity"], strict=True):
        assert old["loss"] == pytest.approx(new["loss"])


def test_a_damaged_folder_is_made_again_and_a_strange_one_is_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    main(recipe)
    folder = Path(str(recipe.evaluate.output)) / "base"
    (folder / "results.json").write_text("{}")
    main(recipe)
    assert "evaluating again" in capsys.readouterr().err
    assert results(recipe)["answers"]["computed"] == 0
    (folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="exists and holds no results"):
        main(recipe)


def test_bad_questions_are_counted_and_too_many_stop(recipe: Recipe, tmp_path: Path) -> None:
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(1), {**medqa_record(2), "answer_idx": "Z"}])
    with pytest.raises(QuarantineError, match=r"evaluate\.tasks\.medqa: 1 of 2 questions \(50\.00%\)"):
        main(recipe)
    (line,) = (Path(str(recipe.evaluate.output)) / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "the answer 'Z' is none of the options"
    recipe.evaluate.max_bad_fraction = 0.5
    main(recipe)
    assert results(recipe)["tasks"][0]["quarantined"] == 1


def test_prompts_longer_than_the_context_are_counted(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.evaluate.max_length = 64
    main(recipe)
    assert "lost their beginning" in " ".join(capsys.readouterr().err.split())
    entries = {(e["task"], e["protocol"]): e for e in results(recipe)["tasks"]}
    assert entries["mmlu", "letter"]["cut_prompts"] == 6


def test_generated_answers_and_votes(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.evaluate.protocols = ["generate", "cot", "vote"]
    recipe.evaluate.generation = GenerationConfig(max_tokens=6, reasoning_tokens=8, samples=3)
    main(recipe)
    entries = {(e["task"], e["protocol"]): e for e in results(recipe)["tasks"]}
    assert len(entries) == 9
    assert entries["mmlu", "generate"]["shots"] == 2
    assert entries["mmlu", "cot"]["shots"] == 0
    ties = [entry["ties"] for (_, protocol), entry in entries.items() if protocol == "vote"]
    assert [int(found) for found in re.findall(r"(\d+) tied", capsys.readouterr().out)] == ties
    assert len({entry["protocol_hash"] for entry in entries.values()}) == 9
    for (task, protocol), entry in entries.items():
        own = samples(recipe, f"{task}-{protocol}")
        assert entry["invalid"] == sum(one["prediction"] is None for one in own)
        assert entry["correct"] == sum(one["correct"] for one in own)
        assert {len(one["outputs"]) for one in own} == {3 if protocol == "vote" else 1}


def test_several_seeds_of_examples(recipe: Recipe) -> None:
    recipe.evaluate.tasks["mmlu"].seeds = [1234, 432, 32]
    recipe.evaluate.protocols = ["letter"]
    main(recipe)
    entry = next(e for e in results(recipe)["tasks"] if e["task"] == "mmlu")
    assert list(entry["seeds"]) == ["1234", "432", "32"]
    accuracies = [own["accuracy"] for own in entry["seeds"].values()]
    assert entry["accuracy"] == pytest.approx(sum(accuracies) / 3)
    assert entry["std"] == pytest.approx(float(np.std(accuracies, ddof=1)))
    assert entry["n"] == 6
    own = [samples(recipe, f"mmlu-letter{suffix}") for suffix in ("", "-seed432", "-seed32")]
    for subject, found in entry["subjects"].items():
        right = [one["correct"] for lines in own for one in lines if one["subject"] == subject]
        assert found["accuracy"] == pytest.approx(sum(right) / len(right))
    assert sum(part["n"] for part in entry["calibration"]["bins"]) == 3 * 6
    prompts = [samples(recipe, f"mmlu-letter{suffix}")[0]["prompt"] for suffix in ("", "-seed432", "-seed32")]
    assert len(set(prompts)) > 1


def test_rotated_options_and_pass_keys(recipe: Recipe) -> None:
    recipe.evaluate.tasks["medqa"].rotate_options = True
    passkey = PasskeyConfig(lengths=[100, 200], questions=2)
    recipe.evaluate.tasks["passkey"] = TaskConfig(format="passkey", passkey=passkey)
    main(recipe)
    entries = {(e["task"], e["protocol"]): e for e in results(recipe)["tasks"]}
    assert ("passkey", "letter") not in entries
    assert set(entries["passkey", "answer"]["subjects"]) == {"length 100", "length 200"}
    assert entries["passkey", "answer"]["chance"] == pytest.approx(0.1)
    places = entries["passkey", "answer"]["by_place"]
    assert [(one["length"], one["depth"]) for one in places] == [
        (length, depth) for length in (100, 200) for depth in ([0.0, 0.2], [0.8, 1.0])
    ]
    assert sum(one["correct"] for one in places) == entries["passkey", "answer"]["correct"]
    found = entries["medqa", "letter"]["orders"]
    assert found["count"] == 4
    assert found["accuracies"][0] == entries["medqa", "letter"]["accuracy"]
    assert sum(found["chosen"]) == pytest.approx(1.0)
    assert "orders" not in entries["medqa", "answer"]
    assert "std" not in entries["medqa", "letter"]
    plain, rotated = (samples(recipe, f"medqa-letter{suffix}") for suffix in ("", "-order3"))
    assert rotated[0]["options"] == plain[0]["options"][2:] + plain[0]["options"][:2]


def test_the_chat_template(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = make_model(tmp_path / "chat", max_position_embeddings=512)
    make_tokenizer(chat, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], template)
    recipe.evaluate.models["chat"] = str(chat)
    recipe.evaluate.protocols = ["letter", "letter-chat"]
    main(recipe)
    said = capsys.readouterr()
    assert "base: its tokenizer has no chat template" in " ".join(said.err.split())
    assert "not measured" in " ".join(said.out.split())
    assert {e["protocol"] for e in results(recipe)["tasks"]} == {"letter"}
    assert {e["protocol"] for e in results(recipe, "chat")["tasks"]} == {"letter", "letter-chat"}
    hashes = {(e["task"], e["protocol"]): e["protocol_hash"] for e in results(recipe, "chat")["tasks"]}
    (asked,) = (one for one in make_plan(recipe).asked if one.key == "mmlu-letter-chat")
    assert hashes["mmlu", "letter-chat"] == asked.hashed(template)
    folder = Path(str(recipe.evaluate.output)) / "chat"
    prompt = json.loads((folder / "samples-mmlu-letter-chat.jsonl").read_text().splitlines()[0])["prompt"]
    assert prompt.startswith("<|im_start|>system\nThe following are examination questions")
    assert prompt.count("<|im_start|>user") == 3
    assert prompt.endswith("The answer is:<|im_end|>\n<|im_start|>assistant\n")


def test_models_side_by_side(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_model(tmp_path / "other", hidden_size=48, head_dim=12)
    make_tokenizer(other, ["<|endoftext|>"])
    recipe.evaluate.models = {**recipe.evaluate.models, "finetuned": str(other)}
    main(recipe)
    table = capsys.readouterr().out
    assert "base" in table
    assert "finetuned" in table
    identities = {results(recipe, label)["model"]["identity"] for label in ("base", "finetuned")}
    assert len(identities) == 2
    stage = BY_NAME["evaluate"]
    assert stage.left_out(recipe) is None
    assert stage.finished_identity(recipe) is not None


def test_a_variant_is_the_model_with_other_settings(recipe: Recipe) -> None:
    recipe.evaluate.tasks = {"medqa": recipe.evaluate.tasks["medqa"]}
    recipe.evaluate.perplexity.enabled = False
    small = VariantConfig(
        model="base", settings={"rope_parameters": {"rope_type": "default", "rope_theta": 3}}
    )
    recipe.evaluate.variants = {"turned": small}
    main(resolve(recipe))
    plain, turned = (results(recipe, label)["model"] for label in ("base", "turned"))
    assert turned["settings"] == small.settings
    assert turned["path"] == plain["path"]
    assert turned["identity"] != plain["identity"]  # so its answers are not taken from the cache
    assert results(recipe, "turned")["answers"]["from_cache"] == 0
    recipe.evaluate.variants = {"x": VariantConfig(model="base", settings={"rope_thta": 3})}
    with pytest.raises(ConfigError, match=r"evaluate\.variants\.x\.settings: 'rope_thta' is unknown"):
        main(recipe)
    recipe.evaluate.variants = {"x": VariantConfig(model="bas", settings={"rope_theta": 3})}
    with pytest.raises(ConfigError, match=r"variants\.x\.model: 'bas' is unknown; did you mean 'base'"):
        resolve(recipe)
    recipe.evaluate.variants = {"base": VariantConfig(model="base", settings={"rope_theta": 3})}
    with pytest.raises(ConfigError, match=r"'base' is a model's label; choose another"):
        resolve(recipe)


def test_answers_of_a_models_own_code_are_not_those_without_it(recipe: Recipe) -> None:
    recipe.evaluate.tasks = {"medqa": recipe.evaluate.tasks["medqa"]}
    recipe.evaluate.perplexity.enabled = False
    main(recipe)
    recipe.evaluate.trust_remote_code = True
    main(recipe)
    assert results(recipe)["answers"] == {"computed": 64, "from_cache": 0, "cut": 0}


def test_models_that_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    for folder, message in (
        (tmp_path / "none", r"evaluate\.models\.x: .*none does not exist; run the stage that makes it"),
        (tmp_path, r"is no model folder \(it has no config\.json\)"),
    ):
        recipe.evaluate.models = {"x": str(folder)}
        with pytest.raises(InputError, match=message):
            main(recipe)
    small = make_model(tmp_path / "small", vocab_size=100)
    make_tokenizer(small, ["<|endoftext|>"])
    recipe.evaluate.models = {"x": str(small)}
    with pytest.raises(InputError, match=r"its tokenizer has ids up to \d+, but its embedding only 100 rows"):
        main(recipe)
    (small / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="holds no tokenizer that transformers reads"):
        main(recipe)
    (small / "model.safetensors").write_bytes(b"damaged")
    make_tokenizer(small, ["<|endoftext|>"])
    with pytest.raises(InputError, match="the model cannot be read"):
        main(recipe)


def test_nothing_to_evaluate(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.evaluate.tasks = {}
    recipe.evaluate.perplexity.enabled = False
    with pytest.raises(ConfigError, match="names no questions, and there is no corpus"):
        main(recipe)
    recipe.evaluate.perplexity = PerplexityConfig(corpus=str(tmp_path / "none"))
    with pytest.raises(ManifestError, match="does not exist"):
        main(recipe)
    recipe.evaluate.perplexity.corpus = recipe.curate.output
    recipe.evaluate.tasks = {"medqa": TaskConfig(format="medqa", path="medqa.jsonl")}
    main(recipe)
    assert "no corpus is there, so no perplexity is measured" in " ".join(capsys.readouterr().err.split())
    assert results(recipe)["perplexity"] == []
    recipe.evaluate.models = {}
    with pytest.raises(ConfigError, match=r"evaluate\.models: names no model"):
        main(recipe)


def test_the_command(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert cli.main(["evaluate", "--config", str(file), "--evaluate.protocols", "[letter]"]) == 0
    assert {entry["protocol"] for entry in results(recipe)["tasks"]} == {"letter"}
    assert cli.main(["evaluate", "--config", str(file), "--evaluate.models", '{"x": "nowhere"}']) == 3
    assert cli.main(["evaluate", "--config", str(file), "--evaluate.device", "toaster"]) == 2
    assert "'toaster' is no device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocols": []}, r"evaluate\.protocols: \[\] names no protocol"),
        ({"protocols": ["leter"]}, r"evaluate\.protocols: 'leter' is unknown; did you mean 'letter'"),
        ({"protocols": ["letter", "letter"]}, "names a protocol twice"),
        ({"max_bad_fraction": 1.5}, r"evaluate\.max_bad_fraction: 1\.5"),
        ({"batch_tokens": 3}, r"evaluate\.batch_tokens: 3 must be at least 16"),
        ({"models": {"../x": "y"}}, r"evaluate\.models: '\.\./x' cannot name a file"),
        (
            {"variants": {"x": VariantConfig(model="y")}},
            r"evaluate\.variants\.x\.settings: \{\} is changed by",
        ),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "medqua"}, r"evaluate\.tasks\.format: 'medqua' is unknown; did you mean 'medqa'"),
        ({"path": ""}, r"evaluate\.tasks\.path: '' must name"),
        ({"limit": 0}, r"evaluate\.tasks\.limit: 0"),
        ({"seeds": [1, 2]}, r"evaluate\.tasks\.seeds: \[1, 2\] needs evaluate\.tasks\.shots"),
        ({"shots": 3}, r"evaluate\.tasks\.shots: 3 needs evaluate\.tasks\.shots_path"),
        ({"first_answer": 2}, r"evaluate\.tasks\.first_answer: 2 must be 0 or 1"),
    ],
)
def test_task_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskConfig(**{"format": "medqa", "path": "x", **settings})


def test_the_models_of_a_recipe(tmp_path: Path) -> None:
    recipe = Recipe(work_dir="w")
    assert resolve(recipe).evaluate.models == {"pretrained": "w/model"}
    recipe = Recipe(work_dir="w")
    recipe.model.base, recipe.finetune.data = "w/base", ["x.jsonl"]
    assert resolve(recipe).evaluate.models == {
        "base": "w/base",
        "pretrained": "w/model",
        "finetuned": "w/finetune/model",
    }
