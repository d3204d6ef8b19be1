"""Two real processes, as two hosts are, train what one trains, on every axis of a mesh."""

import functools
import pathlib
import shutil
from typing import Any

import jax
import pytest

from ftjax.core import mesh as meshes
from ftjax.core import processes
from ftjax.models.families import mixtral
from ftjax.models.hf import checkpoint
from ftjax.ops import moe
from ftjax.sampling import rewards
from tests import joined
from tests.experiments.test_devices import steps
from tests.lab import ASSETS, CONFIG, Lab

# One device in each process: the axis named goes from one to the other. Compiling takes most of the
# time, and batches over `data` alone are those of the whole run in `test_killed.py`.
MESHES = {"fsdp": dict(data=1, fsdp=2), "tensor": dict(data=1, tensor=2)}
MORE = {
    "data": dict(data=2), "expert": dict(data=1, expert=2), "sequence": dict(data=1, sequence=2),
}  # fmt: skip


def work(root: str, wanted: dict) -> dict[str, Any]:
    """Train three steps on each mesh, and ask what only process 0 answers; in every process."""
    lab = Lab(pathlib.Path(root))
    found = {name: train(lab, name, sizes) for name, sizes in wanted.items()}
    reward = rewards.make({"mine": dict(name=f"{__name__}.impure")})
    return {"losses": found, "reward": reward(["a"], [{}]).values_BF.tolist(), "fault": fault()}


def impure():
    """A reward that is another one in every process."""
    return lambda text, row: jax.process_index() + 7.0


def fault() -> str:
    """Fail in process 0 alone, where the others wait for what it finds."""
    try:
        processes.on_first(lambda: {}["gold"])
    except (KeyError, RuntimeError) as error:
        return repr(error)
    return ""


def train(lab, name, sizes):
    base = {"model.base": str(lab.root / ("experts" if name == "expert" else "base"))}
    return steps(lab.settings(**base, **{f"mesh.{axis}": n for axis, n in sizes.items()})).rows


@pytest.fixture(scope="session")
def experts(lab):
    """The lab, with a second base, of experts."""
    more = dict(experts=4, top=2, expert_ffw=48, normalise=True, shared_ffw=None)
    more |= dict(dispatch=moe.DROPLESS)
    config = mixtral.Config(**vars(CONFIG), **more, router_aux=0.01)
    params = mixtral.make(config).init(jax.random.key(0))
    checkpoint.save(lab.root / "experts", params, family=mixtral, config=config)
    for file in ASSETS.glob("tokenizer*.json"):
        shutil.copy(file, lab.root / "experts")
    return lab


@pytest.fixture(scope="session")
def of_two(lab):
    """What two processes of one device find, each for every mesh."""
    return joined.call(work, str(lab.root), MESHES)


@pytest.fixture(scope="session")
def of_one(lab):
    """Make a function of what one process finds on one device; once for each base."""

    @functools.cache
    def find(name):
        with pytest.MonkeyPatch.context() as patch:
            one = functools.partial(meshes.make, devices=jax.devices()[:1])
            patch.setattr(meshes, "make", one)
            return train(lab, name, {})

    return lambda name: find("expert" if name == "expert" else "base")


def check_same(wanted, found):
    assert len({row["loss"] for row in wanted}) == 3
    for row, own in zip(wanted, found, strict=True):
        assert own.keys() == row.keys()
        assert own["loss"] == pytest.approx(row["loss"], rel=1e-5)
        assert own["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("name", MESHES)
def test_an_axis_that_goes_across_processes_changes_no_loss(name, of_one, of_two):
    for found in of_two:  # metrics are replicated: every process has the same
        check_same(of_one(name), found["losses"][name])


@pytest.mark.slow
def test_nor_do_the_other_axes(experts, of_one):
    for found in joined.call(work, str(experts.root), MORE):
        for name in MORE:
            check_same(of_one(name), found["losses"][name])


def test_what_one_process_finds_is_what_all_have(of_two):
    assert [found["reward"] for found in of_two] == [[[7.0]]] * 2


def test_a_fault_of_process_0_is_raised_in_all(of_two):
    first, second = (found["fault"] for found in of_two)
    assert first == "KeyError('gold')"
    assert second.startswith("RuntimeError(")
    assert "process 0: 'gold'" in second
