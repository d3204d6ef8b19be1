"""Which models share a queue. Nothing is compiled here but small adapters."""

import jax
import numpy as np

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.serve import served

OPTIONS = dict(
    count=2, length=64, stop_ids=(2,), max_queue=1, max_queue_tokens=64
)  # what no engine here comes to use


def test_adapters_of_one_base_share_a_queue(served_models, capsys):
    parts, models = served_models
    found = served.build(parts, models, **OPTIONS)
    assert list(found) == ["base", "law", "code"]
    assert len({model.engine for model in found.values()}) == 1
    assert [model.member for model in found.values()] == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_other_weights_have_a_queue_of_their_own(served_models):
    parts, models = served_models
    moved = jax.tree.map(np.array, models["base"]["model"])
    full = dict(model=moved, adapters=None)
    found = served.build(parts, models | dict(full=full), **OPTIONS)
    assert found["full"].engine is not found["base"].engine
    assert found["law"].engine is found["base"].engine


def test_adapters_that_do_not_go_together_are_said(served_models, capsys):
    parts, models = served_models
    method = lora.make(rank=2, alpha=4.0)
    tied = protocol.init(
        method, jax.random.key(0), parts.model.linears, models["base"]["model"], where="embed"
    )
    models = dict(base=models["base"], tied={**models["base"], "adapters": tied})
    found = served.build(parts, models, **OPTIONS)
    assert found["tied"].engine is not found["base"].engine
    assert [model.member for model in found.values()] == [0, 0]
    assert (
        "base, tied have a queue each: adapters: got rows with adapters of their own"
        in capsys.readouterr().err
    )
