import jax
import numpy as np
import pytest

from ftjax.core import tree
from ftjax.run import reader


@pytest.fixture(scope="module")
def latest(trained):
    return reader.load(trained.workdir)


def test_the_latest_checkpoint_is_the_end_of_the_run(trained, latest):
    assert latest.step == 3
    factors = [leaf for path, leaf in tree.paths(latest.params).items() if path.endswith("/b")]
    assert factors
    assert all((np.asarray(leaf) != 0).any() for leaf in factors)  # they start at 0
    assert latest.base["adapters"] is None
    same = jax.tree.map(lambda a, b: bool((a == b).all()), latest.base, reader.base_of(
        reader.parts_of(trained.workdir)))  # fmt: skip
    assert all(jax.tree.leaves(same))


def test_a_checkpoint_by_its_step_and_the_best_one(trained, latest):
    two = reader.load(trained.workdir, checkpoint="2")
    assert two.step == 2
    different = jax.tree.map(
        lambda a, b: bool((a != b).any()), two.params["adapters"], latest.params["adapters"]
    )
    assert any(jax.tree.leaves(different))
    assert reader.load(trained.workdir, checkpoint="best").step in (2, 3)


@pytest.mark.parametrize("name", ["7", "newest", "-1"])
def test_an_unknown_checkpoint_is_an_error_that_lists_them(name, trained):
    with pytest.raises(ValueError, match=r"expected latest, best or a step: .*2, 3"):
        reader.load(trained.workdir, checkpoint=name)


def test_a_directory_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no config.json"):
        reader.load(tmp_path)


def test_a_run_without_a_checkpoint_is_an_error(trained, tmp_path):
    (tmp_path / "config.json").write_text((trained.workdir / "config.json").read_text())
    with pytest.raises(ValueError, match=r"no checkpoint; .*pass --base"):
        reader.load(tmp_path)
