"""The variants of a config become jobs: resolved by the command that each of them is."""

import json

import pytest

from experiments import compare, train
from ftjax.core import config as conf
from ftjax.launch.lib import jobs
from ftjax.run import config as settings

CONFIG = """
from configs import common
from ftjax.launch.lib.space import Searched, grid


def get_config(arg=None):
    arg = common.parse_arg(arg, rank=8, steps=10)
    c = common.base()
    c.adapter = dict(name="lora", where="blocks/**", rank=arg.rank, alpha=16.0)
    c.optim.learning_rate, c.steps = 1e-3, arg.steps
    return c


def sweep():
    return SWEEP
"""


@pytest.fixture
def planned(tmp_path):
    """Plan the jobs of a sweep() that returns the given text."""

    def plan(text, arg=""):
        path = tmp_path / "c.py"
        path.write_text(CONFIG.replace("SWEEP", text))
        return jobs.plan(f"{path}:{arg}" if arg else str(path), tmp_path / "runs")

    return plan


def test_a_grid_of_overrides(planned, tmp_path):
    found = planned('grid({"optim.learning_rate": (1e-3, 3e-4), "adapter.rank": (8, 4)})')
    assert [job.label for job in found] == [
        "learning_rate=0.001,rank=8", "learning_rate=0.001,rank=4",
        "learning_rate=0.0003,rank=8", "learning_rate=0.0003,rank=4",
    ]  # fmt: skip
    assert found[3].command == (
        "experiments.train", f"--config={tmp_path}/c.py", "--config.optim.learning_rate=0.0003",
        "--config.adapter.rank=4", f"--workdir={tmp_path}/runs/{found[3].id}",
    )  # fmt: skip
    assert jobs.varying(found) == ["adapter.rank", "optim.learning_rate"]
    assert len({job.id for job in found}) == 4


def test_an_id_is_of_the_resolved_config_however_it_is_written(planned):
    (by_arg,) = planned('{"a": "rank=4"}', "steps=20")
    (by_key,) = planned('[{"adapter.rank": 4, "steps": 20}]')
    (other,) = planned('[{"adapter.rank": 4}]')
    assert by_arg.id == by_key.id != other.id
    assert by_arg.command[1].endswith("c.py:steps=20,rank=4")


def test_the_command_of_a_job_resolves_to_the_config_of_its_id(planned):
    """Texts, tuples, None and sections survive the command line."""
    overrides = {
        "optim.clip_norm": None, "seed.data": 3, "tokenizer": "tiny", "optim.no_decay": ("**/b",),
        "adapter": dict(name="lora", where=("blocks/attn/*",), rank=2, alpha=1.0),
    }  # fmt: skip
    (job,) = planned(f"[{overrides!r}]")
    assert job.config["optim"]["clip_norm"] is None
    assert job.config["adapter"]["where"] == ["blocks/attn/*"]
    assert job.config["tokenizer"] == "tiny"
    given = [text.removeprefix("--config.") for text in job.command[2:-1]]
    config = train.keys.apply(conf.load(job.command[1].removeprefix("--config=")), given)
    assert json.loads(json.dumps(settings.read(config).plain)) == job.config


def test_a_search_is_a_list_of_variants(planned, tmp_path):
    found = planned('Searched({"adapter.rank": range(1, 65)}, 4, dict(name="sobol"))')
    ranks = [job.config["adapter"]["rank"] for job in found]
    assert [job.label for job in found] == [f"rank={rank}" for rank in ranks]
    assert sorted((rank - 1) // 16 for rank in ranks) == [0, 1, 2, 3]
    assert not jobs.learns(f"{tmp_path}/c.py:steps=3")


def test_compare_reads_the_same_variants(planned, tmp_path):
    found = planned('[{"adapter.rank": 4}, {"adapter.rank": 2}]')
    read = compare.read(f"{tmp_path}/c.py")
    assert [settings.read(config).plain["adapter"]["rank"] for config in read.values()] == [4, 2]
    assert list(read) == [job.label for job in found]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ('{"a": "", "b": "rank=8"}', "got 'a' and 'b', which resolve to one config and so to one"),
        ('[{"optim.learning_rat": 1.0}]', "unknown key; did you mean 'learning_rate'"),
        ('[{"objective.beta": 0.1}]', r"sweep\(\)\['0'\]: config.objective.beta: unknown key"),
        ('[{"steps": "many"}]', "steps: got 'many'; expected int"),
        ('[{"steps": 1.5}]', "steps: got 1.5"),
        ('[{"adapter_from": None}]', "got None, which the command line reads as 'None'"),
        ("{}", "got no variants of sweep"),
        ('{"a": 3}', r"sweep\(\)\['a'\]: got 3; expected what stands behind"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_before_anything_is_submitted(planned, sweep, message):
    with pytest.raises(ValueError, match=message):
        planned(sweep)


def test_what_was_launched_is_kept_and_grows(planned, tmp_path):
    root = tmp_path / "runs"
    with pytest.raises(ValueError, match=r"which has no sweep.json; expected the directory"):
        jobs.kept(root)
    one, two = planned('[{"adapter.rank": 4}]'), planned('[{"adapter.rank": 2}]')
    jobs.keep(one, root)
    jobs.keep(two, root)
    jobs.keep(one, root)
    assert jobs.kept(root) == [*one, *two]
