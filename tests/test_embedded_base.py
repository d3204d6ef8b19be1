"""The base that comes with the repository is the one of its card, and it can do something."""

import hashlib
import pathlib
import re

import numpy as np
import pytest

from ftjax.data import tokenizer_files
from ftjax.data.sources import embedded
from ftjax.data.worlds import languages
from ftjax.evals import choice, generate, nll
from ftjax.models.hf import checkpoint
from ftjax.run import bases
from ftjax.sampling import text

FOLDER = bases.locate(bases.TINY)
WEIGHTS = FOLDER / "model.safetensors"


@pytest.fixture(scope="module")
def base():
    family, config = checkpoint.config_of(FOLDER)
    model = family.make(config)
    return model, {"model": checkpoint.load(FOLDER, model, names=family.NAMES), "adapters": None}


@pytest.fixture(scope="module")
def words():
    return tokenizer_files.load(str(FOLDER))


def test_the_card_names_the_hash_and_the_file_is_small():
    card = pathlib.Path(FOLDER / "README.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"\b[0-9a-f]{64}\b", card)
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == named
    assert WEIGHTS.stat().st_size < 8e6


def test_it_knows_its_facts_and_its_skills(base, words):
    model, params = base
    respond = text.make(model, words, max_new_tokens=8, batch_size=16, until=("\n",))
    for domain in ("facts", "skills"):
        rows = list(embedded.make(domain=domain, split="test", rows=48))
        score = generate.make(respond=respond, rows=rows)(params)["exact_match"]
        assert score > 0.3, domain  # chance is one over the number of values, at most a tenth


def test_it_reads(base, words):
    """Of what a passage about other people offers, it picks the right value well above chance."""
    model, params = base
    rows = [embedded.make(domain="reading", split="validation", rows=96)[i] for i in range(96)]
    spaced = [
        row | dict(answer=" " + row["answer"], choices=[" " + one for one in row["choices"]])
        for row in rows
    ]
    score = choice.make(model=model, tokenizer=words, rows=spaced, batch_size=16)(params)
    assert score["accuracy"] > score["chance"] + 0.15


def test_it_is_not_saturated(base, words):
    """Its loss on a language stays above the entropy of the language, and under the uniform one."""
    model, params = base
    rows = [
        embedded.make(domain="languages", split="test", languages=0, rows=32)[i] for i in range(32)
    ]
    ids = [words.encode(row["prompt"] + row["response"]) for row in rows]
    # The first symbols have no past to be predicted from.
    examples = [(np.array(i), np.where(np.arange(len(i)) < len(i) - 60, 0.0, 1.0)) for i in ids]
    found = nll.make(model=model, examples=examples, batch_size=16)(params)["nll"]
    assert languages.entropy_floor(0) + 0.02 < found < np.log(len(languages.SYMBOLS))
