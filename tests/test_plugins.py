"""One of each plug-in in a folder of one's own: found by dotted path, no other file touched."""

import json
import shutil

import pytest

from ftjax.run import plan as plans
from tests import lab as lab_lib

FILES = {
    "adapter.py": '''
        """A bias on what a map puts out is no change of its weight: this scales the weight."""
        import dataclasses

        import jax
        import jax.numpy as jnp

        from ftjax.adapters.lib import protocol


        @jax.tree_util.register_dataclass
        @dataclasses.dataclass(frozen=True)
        class Gain(protocol.Adapter):
            g: jax.Array

            def merge(self, equation, w):
                return w * (1 + self.g).astype(w.dtype)

            def axes(self, equation):
                return Gain("")


        def make():
            return lambda key, site, w: Gain(jnp.zeros((), jnp.float32))
    ''',
    "objective.py": '''
        """Squared surprise."""
        from ftjax.core.mean import Mean
        from ftjax.objectives.losses.spec import Spec

        SPEC = Spec(data="tokens")


        def make(*, power: float = 2.0):
            def objective(policy, reference, batch, key):
                logp, weights = policy.logps(batch, key), batch["weights"][..., 1:]
                return {"loss": Mean.of((-logp) ** power, weights), "nll": Mean.of(-logp, weights)}

            return objective
    ''',
    "penalty.py": '''
        """Large gains cost."""
        import jax
        import jax.numpy as jnp

        from ftjax.penalties.lib.penalty import Penalty


        def make(*, weight: float):
            square = lambda leaf: jnp.square(leaf).sum()
            total = lambda tree: sum(map(square, jax.tree.leaves(tree)))
            return Penalty(lambda params, arrays: weight * total(params["adapters"]))
    ''',
    "evaluator.py": '''
        """How many examples there are, and how far the weights have moved from the base."""
        import numpy as np

        from ftjax.evals.lib import scoring

        INPUTS = ("examples", "base")
        METRICS = ("count",)


        def make(*, examples, base_of):
            def per_example(params):
                assert base_of(params)["adapters"] is None
                return {"one": np.ones(len(examples))}

            return scoring.Evaluator(per_example, lambda arrays: {"count": arrays["one"].sum()})
    ''',
    "source.py": '''
        """Rows that are counted out."""


        def make(*, count: int):
            return [{"prompt": f"{i} and {i} is", "response": f" {2 * i}"} for i in range(count)]
    ''',
    "family.py": '''
        """A family of one's own: a relative that changes nothing but the name."""
        from ftjax.models.families import llama

        Config, make, NAMES, from_hf = llama.Config, llama.make, llama.NAMES, llama.from_hf


        def to_hf(config):
            return llama.to_hf(config) | {"model_type": __name__}
    ''',
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A package `my_lab` of these files, on the path."""
    import textwrap

    folder = tmp_path / "code" / "my_lab"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text).lstrip())
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_plugins_of_a_folder_of_ones_own_train_a_run(lab, mine, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(lab.root / "base", base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "my_lab.family"}))
    workdir = lab.run(
        "run", tmp_path,
        **{
            "model.base": str(base),
            "adapter": dict(name="my_lab.adapter", where="blocks/**"),
            "objective": dict(name="my_lab.objective", power=1.5),
            "penalties": dict(small=dict(name="my_lab.penalty", weight=0.1)),
            "data": dict(name="my_lab.source", count=16, max_tokens=32),
            "evals": dict(moved=dict(name="my_lab.evaluator", data=lab.rows(max_tokens=64))),
        },
    )  # fmt: skip
    rows = lab_lib.metrics(workdir)
    assert [row["eval/moved/count"] for row in rows if "eval/moved/count" in row] == [32, 32]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert rows[-1]["penalty/small"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": dict(name="my_lab.absent", where="blocks/**")}, "adapter.*my_lab.absent"),
        ({"objective": dict(name="my_lab.source")}, "my_lab.source.*no SPEC"),
        ({"data": dict(name="my_lab.source", cuont=16, max_tokens=32)}, "did you mean 'count'"),
    ],
)
def test_what_they_lack_is_named(lab, mine, changes, message):
    with pytest.raises(ValueError, match=message):
        plans.plan(lab.settings(**changes))
