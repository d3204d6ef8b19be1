import json
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(name, *arguments, text=None):
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("name", ["generate", "evaluate", "edit"])
def test_help_is_quick_and_names_the_flags(name):
    start = time.perf_counter()
    done = run(name, "--help")
    assert time.perf_counter() - start < 3
    assert "--workdir" in done.stdout
    assert "--checkpoint" in done.stdout
    assert f"python -m experiments.{name} --workdir" in done.stdout


def test_prompts_and_chat_exclude_each_other():
    for arguments in ([], ["--chat", "--prompt", "x"]):
        done = run("generate", "--workdir", "nowhere", *arguments)
        assert done.returncode != 0
        assert "--prompt or --prompts_file, or --chat, and not both" in done.stderr


def test_generate_continues_prompts(trained, tmp_path):
    (tmp_path / "p.txt").write_text("Q: what is 5?\nA:\n")
    done = run(
        "generate", "--workdir", trained.workdir, "--prompt", "Q: what is 3?\nA:",
        "--prompts_file", tmp_path / "p.txt", "--max_new_tokens", 4, "--output",
        tmp_path / "o.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines()))
    assert [row["prompt"] for row in rows] == ["Q: what is 3?\nA:", "Q: what is 5?", "A:"]
    assert any(row["text"] for row in rows)
    for row in rows:
        assert f"> {row['prompt']}\n{row['text']}\n" in done.stdout


def test_generate_names_the_line_of_a_prompt_that_is_too_long(trained, tmp_path):
    (tmp_path / "p.txt").write_text(f"2 + 2 =\n{'1 ' * 900}\n")
    done = run("generate", "--workdir", trained.workdir, "--prompts_file", tmp_path / "p.txt")
    assert done.returncode != 0
    assert f"{tmp_path / 'p.txt'}:2: got a prompt of " in done.stderr
    assert "and --max_new_tokens=128; expected at most " in done.stderr


def test_a_single_prompt_is_answered_as_it_comes(trained, tmp_path):
    own = ["--workdir", trained.workdir, "--max_new_tokens", 6, "--temperature", 0.7, "--seed", 3]
    texts = {}
    for name, more in (("stream", []), ("batch", ["--until", "never said"])):
        output = tmp_path / f"{name}.jsonl"
        done = run("generate", *own, "--prompt", "Q: what is 3?", "--output", output, *more)
        assert done.returncode == 0, done.stderr
        texts[name] = json.loads(output.read_text())["text"]
        assert f"> Q: what is 3?\n{texts[name]}\n" in done.stdout
    assert texts["stream"] == texts["batch"] != ""


def test_chat_with_the_base(trained):
    arguments = ["--workdir", trained.workdir, "--chat", "--base", "--max_new_tokens", 4]
    done = run("generate", *arguments, text="hello\n/reset\nhello\n/quit\n")
    assert done.returncode == 0, done.stderr
    first, _, second = done.stdout.partition("(forgotten)\n")
    assert "/reset forgets" in first
    answer = first.rpartition("> ")[0].rpartition("> ")[2]
    assert answer
    assert second.startswith(f"> {answer}> ")  # greedy, and nothing is remembered


def test_evaluate_compares_the_base_with_the_checkpoint(trained, tmp_path):
    output = tmp_path / "scores.json"
    done = run("evaluate", "--workdir", trained.workdir, "--output", output)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert found["step"] == 3
    rows = map(json.loads, (trained.workdir / "metrics.jsonl").read_text().splitlines())
    logged = {k: v for row in rows if row["step"] == 3 for k, v in row.items()}
    for name in ("task/nll", "old/accuracy", "answers/f1"):
        assert found["after"][name] == pytest.approx(logged[f"eval/{name}"], rel=1e-4)
    assert found["before"]["task/nll"] != found["after"]["task/nll"]
    low, high = (found["change"]["task/nll"][key] for key in ("low", "high"))
    assert low <= found["after"]["task/nll"] - found["before"]["task/nll"] <= high
    assert "step 3" in done.stdout


def test_edit_measures_an_amount_and_writes_its_model(trained, tmp_path):
    done = run(
        "edit", "--workdir", trained.workdir, "--edit", "interpolate", "--amounts", "0.5",
        "--out", tmp_path / "half",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["evaluation", "metric", "base", "0.5", "change"]
    found = json.loads((trained.workdir / "evals" / "edit_interpolate_3.json").read_text())
    change = found["amounts"]["0.5"]["change"]["task/nll"]
    assert change["low"] <= change["value"] <= change["high"]
    assert (tmp_path / "half" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--edit", "dail", "--amounts", "1"], "--edit: got 'dail'; did you mean 'dial'"),
     (["--edit", "dial", "--amounts", "1,x"], "--amounts: got '1,x'; expected numbers"),
     (["--edit", "dial", "--amounts", "0,1", "--out", "x"], "--out: got it with 2 amounts")],
)  # fmt: skip
def test_edit_says_what_is_wrong(flags, message):
    done = run("edit", "--workdir", "nowhere", *flags)
    assert done.returncode == 2
    assert message in done.stderr
