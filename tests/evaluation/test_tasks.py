"""The YAML tasks: what a model is asked, in `meditron evaluate` and in plain lm-eval."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from evaluation.asking import TASKS, Asked, build
from evaluation.perplexity import measure, read_held_out
from evaluation.protocols import ASKED_BY
from evaluation.questions import load_questions
from meditron.config import EvaluateConfig, PasskeyConfig, PerplexityConfig, TaskConfig
from meditron.config.evaluation import FORMATS, KINDS
from meditron.errors import ConfigError
from tests.evaluation.adapter.test_score import make_lm
from tests.evaluation.conftest import (
    medqa_record,
    write_corpus,
    write_lines,
    write_mmlu,
    write_pubmedqa,
)


def ask(root: Path, protocol: str, seed: int = 1234, **settings: object) -> Asked:
    config = TaskConfig(**settings)  # type: ignore[arg-type]
    evaluate = EvaluateConfig(protocols=[protocol])
    asked, *_ = build({"it": (config, load_questions(config, root))}, evaluate, seed)
    return asked


def prompts(asked: Asked) -> list[str]:
    asked.task.build_all_requests()
    found = [request.args[0] for request in asked.task.instances]
    return list(dict.fromkeys(found))


def test_there_is_a_task_for_every_form_and_protocol() -> None:
    known = TaskManager(include_path=str(TASKS), include_defaults=False).all_tasks
    asked = {form: ASKED_BY.get(form, KINDS) for form in FORMATS}
    assert {f"meditron_{form}_{protocol}" for form in FORMATS for protocol in asked[form]} <= set(known)
    assert {"meditron_perplexity_medical", "meditron_perplexity_general"} <= set(known)
    assert {f"meditron_mmlu_medical_{n}_{protocol}" for n in (6, 9) for protocol in KINDS} <= set(known)


def test_the_letter_prompt(tmp_path: Path) -> None:
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(1)])
    asked = ask(tmp_path, "letter", format="medqa", path="medqa.jsonl")
    assert prompts(asked) == [
        "The following are questions from the US Medical Licensing Examination.\n\n"
        "Question: Patient 1 has diabetes, BP <101/60. Which drug?\n\n"
        "Options:\nA. adrenaline\nB. metformin\nC. amlodipine\nD. salbutamol\nThe answer is:"
    ]
    assert [request.args[1] for request in asked.task.instances] == [" A", " B", " C", " D"]


def test_the_answer_prompt_shows_no_options(tmp_path: Path) -> None:
    write_pubmedqa(tmp_path, ["yes", "no", "yes"])
    asked = ask(tmp_path, "answer", format="pubmedqa", path="pubmedqa.json")
    assert prompts(asked)[0] == (
        "The following are questions about the findings of medical research. Answer yes, no or maybe.\n\n"
        "In 20 patients it was tried.\nMortality fell (p <0.05).\n\n"
        "Question: Does ramipril help in heart failure?\nAnswer:"
    )
    assert [request.args[1] for request in asked.task.instances[:3]] == [" yes", " no", " maybe"]
    assert asked.metric == "acc"
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(1)])
    assert ask(tmp_path, "answer", format="medqa", path="medqa.jsonl").metric == "acc_norm"


def test_an_instruction_of_ones_own(tmp_path: Path) -> None:
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(1)])
    asked = ask(tmp_path, "letter", format="medqa", path="medqa.jsonl", instruction="Be careful.")
    assert prompts(asked)[0].startswith("Be careful.\n\nQuestion: Patient 1")
    none = ask(tmp_path, "letter", format="medqa", path="medqa.jsonl", instruction="")
    assert prompts(none)[0].startswith("Question: Patient 1")


def test_examples_are_of_the_subject_and_the_same_for_all_its_questions(tmp_path: Path) -> None:
    write_mmlu(tmp_path, "test", ["anatomy", "virology"], 4)
    write_mmlu(tmp_path, "dev", ["anatomy", "virology"], 5)
    asked = ask(tmp_path, "letter", format="mmlu", path="mmlu", shots=3)
    found = prompts(asked)
    for subject, own in (("anatomy", found[:4]), ("virology", found[4:])):
        heads = {prompt.rsplit("Question:", 1)[0] for prompt in own}
        assert len(heads) == 1
        assert heads.pop().count(f"dev {subject}") == 3
    other = ask(tmp_path, "letter", seed=432, format="mmlu", path="mmlu", shots=3)
    assert prompts(other)[0] != found[0]
    assert prompts(other)[0].rsplit("Question:", 1)[1] == found[0].rsplit("Question:", 1)[1]


def test_a_question_is_never_its_own_example(tmp_path: Path) -> None:
    write_mmlu(tmp_path, "test", ["anatomy"], 5)
    asked = ask(tmp_path, "letter", format="mmlu", path="mmlu", shots=4, shots_path="test")
    for prompt in prompts(asked):
        questions = [line for line in prompt.splitlines() if line.startswith("Question:")]
        assert len(set(questions)) == len(questions) == 5


def test_the_protocol_hash_follows_what_is_asked(tmp_path: Path) -> None:
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(number) for number in range(6)])
    settings = {"format": "medqa", "path": "medqa.jsonl"}
    first = ask(tmp_path, "letter", **settings)
    assert len(first.protocol_hash) == 8
    assert first.protocol_hash == ask(tmp_path, "letter", **settings, limit=3).protocol_hash
    shots = {"shots": 1, "shots_path": "more.jsonl"}
    write_lines(tmp_path / "more.jsonl", [medqa_record(9)])
    others = [
        ask(tmp_path, "answer", **settings),
        ask(tmp_path, "letter", **settings, **shots),
        ask(tmp_path, "letter", **settings, instruction="Be careful."),
    ]
    assert len({first.protocol_hash, *(other.protocol_hash for other in others)}) == 4
    assert others[1].protocol_text == "options shown, likelihood of each option's letter, 1 solved example"


def test_the_protocol_hash_knows_the_solved_examples_and_the_chat_template(tmp_path: Path) -> None:
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(number) for number in range(6)])
    for name, first in (("more", 9), ("copy", 9), ("other", 19)):
        write_lines(tmp_path / f"{name}.jsonl", [medqa_record(number) for number in range(first, first + 4)])
    settings = {"format": "medqa", "path": "medqa.jsonl"}
    few = {**settings, "shots": 1, "shots_path": "more.jsonl"}
    hashes = [
        ask(tmp_path, "letter", **few),
        ask(tmp_path, "letter", seed=7, **few),
        ask(tmp_path, "letter", **{**few, "shots_path": "other.jsonl"}),
        ask(tmp_path, "letter", **few, seeds=[7, 8]),
    ]
    assert len({one.protocol_hash for one in hashes}) == 4
    copied = ask(tmp_path, "letter", **{**few, "shots_path": "copy.jsonl"})
    assert copied.protocol_hash == hashes[0].protocol_hash
    zero = ask(tmp_path, "letter", **settings)
    assert zero.protocol_hash == ask(tmp_path, "letter", seed=7, **settings).protocol_hash == "3d2f8688"
    assert zero.hashed("a template") == zero.protocol_hash  # which this protocol does not use
    chat = ask(tmp_path, "letter-chat", **settings)
    assert len({chat.hashed("a template"), chat.hashed("another"), zero.protocol_hash}) == 3


def test_the_pass_key_prompt(tmp_path: Path) -> None:
    settings = {"format": "passkey", "passkey": PasskeyConfig(lengths=[64], questions=2)}
    for protocol in ("answer", "generate"):
        asked = ask(tmp_path, protocol, **settings)
        first = prompts(asked)[0]
        assert first.startswith("There is an important info hidden inside a lot of irrelevant text.")
        assert first.endswith("\n\nWhat is the pass key? The pass key is")
        assert "A. " not in first
        assert asked.metric == ("acc_norm" if protocol == "answer" else "acc")
    with pytest.raises(ConfigError, match=r"'passkey' is asked by answer and generate only"):
        ask(tmp_path, "letter", **settings)


def test_every_order_of_the_options_is_asked(tmp_path: Path) -> None:
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(1), medqa_record(2)])
    config = TaskConfig(format="medqa", path="medqa.jsonl", rotate_options=True)
    loaded = load_questions(config, tmp_path)
    asked = build({"it": (config, loaded)}, EvaluateConfig(protocols=["letter", "answer"]), 1)
    keys = ["it-letter", "it-letter-order2", "it-letter-order3", "it-letter-order4", "it-answer"]
    assert [one.key for one in asked] == keys
    assert len({one.protocol_hash for one in asked[:4]}) == 1
    docs = [one.task.dataset["test"][0] for one in asked[:4]]
    assert len({doc["options"][0] for doc in docs}) == 4
    assert len({doc["options"][doc["answer"]] for doc in docs}) == 1


def write_questions(folder: Path) -> dict[str, object]:
    """Question files under their usual names, and the metadata that leads lm-eval to them."""
    write_lines(folder / "medqa.jsonl", [medqa_record(number) for number in range(6)])
    write_mmlu(folder, "test", ["anatomy", "virology"], 3)
    write_mmlu(folder, "dev", ["anatomy", "virology"], 5)
    return {"data_root": str(folder), "subjects": ["anatomy"]}


def test_lm_evals_own_evaluator_runs_the_tasks_with_its_examples(tmp_path: Path, model_folder: Path) -> None:
    import lm_eval

    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=write_questions(tmp_path))
    lm = lm_eval.api.registry.get_model("hf")(pretrained=str(model_folder), device="cpu", dtype="float32")
    tasks = manager.load(["meditron_mmlu_letter"])["tasks"]
    tasks["meditron_mmlu_letter"].set_config(key="num_fewshot", value=2)
    found = lm_eval.evaluate(lm, {"tasks": tasks, "groups": {}}, bootstrap_iters=0)
    samples = found["samples"]["meditron_mmlu_letter"]
    assert len(samples) == 3
    assert samples[0]["arguments"][0][0].count("dev anatomy") == 2
    ours = ask(tmp_path, "letter", format="mmlu", path="mmlu", subjects=["anatomy"], shots=2)
    assert samples[0]["arguments"][0][0] == prompts(ours)[0]
    tasks["meditron_mmlu_letter"].set_config(key="num_fewshot", value=6)
    with pytest.raises(ConfigError, match="num_fewshot: 6, but there are 5 examples"):
        lm_eval.evaluate(lm, {"tasks": tasks, "groups": {}}, bootstrap_iters=0)


def test_lm_evals_own_evaluator_measures_perplexity_by_domain(tmp_path: Path, model_folder: Path) -> None:
    import lm_eval

    write_corpus(tmp_path / "held-out")
    metadata = {"data_root": str(tmp_path), "paths": {"corpus": "held-out"}, "max_characters": 300}
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)
    lm = lm_eval.api.registry.get_model("hf")(pretrained=str(model_folder), device="cpu", dtype="float32")
    names = ["meditron_perplexity_medical", "meditron_perplexity_general"]
    found = lm_eval.evaluate(lm, {"tasks": manager.load(names)["tasks"], "groups": {}}, bootstrap_iters=0)
    held_out, _ = read_held_out(PerplexityConfig(corpus=str(tmp_path / "held-out"), max_characters=300))
    for name, own in zip(names, held_out, strict=True):
        assert len(found["samples"][name]) == len(own.texts)
        bits = found["results"][name]["bits_per_byte,none"]
        entry = measure(
            make_lm(model_folder, tmp_path / name), [own], PerplexityConfig(window=512, resamples=10), 1
        )[0]
        assert bits == pytest.approx(entry["bits_per_byte"], rel=1e-4)


@pytest.mark.slow
def test_the_command_of_lm_eval_runs_the_tasks(tmp_path: Path, model_folder: Path) -> None:
    """The command of docs/evaluating.md, on a tiny model."""
    metadata = write_questions(tmp_path)
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "4"),
        *("--model_args", f"pretrained={model_folder},dtype=float32", "--include_path", str(TASKS)),
        *("--tasks", "meditron_medqa_answer", "meditron_mmlu_letter", "--output_path", str(tmp_path / "out")),
        *("--metadata", json.dumps(metadata), "--num_fewshot", "0"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(TASKS.parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["n-samples"]["meditron_mmlu_letter"]["original"] == 3
    assert 0 <= results["results"]["meditron_medqa_answer"]["acc_norm,none"] <= 1
