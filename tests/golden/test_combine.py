"""Weighted combinations of adapters: what PEFT's `add_weighted_adapter` makes of the same two."""

import numpy as np
import pytest

from ftjax.adapters.lib import protocol
from ftjax.adapters.multi import merging
from ftjax.adapters.peft import io as peft
from ftjax.core import tree
from tests.golden import reference
from tests.golden.test_adapters import base_of

FOLDERS = [path.parent for path in sorted(reference.folder().glob("adapters/*/meta.json"))
           if "specs" in reference.read(path)]  # fmt: skip
CASES = [
    (folder, name) for folder in FOLDERS for name in reference.read(folder / "meta.json")["specs"]
]
NAMES = dict(svd_rank="rank", density="density", majority_sign_method="sign")


def read(folder):
    meta = reference.read(folder / "meta.json")
    source = base_of(folder / meta["adapters"][0])
    family, model, params = reference.base(source)
    given = dict(linears=model.linears, names=family.NAMES)
    found = [peft.load(folder / name, **given) for name in meta["adapters"]]
    return meta, source, family, model, params, found


def test_there_are_combinations(golden):
    reference.need(CASES, "combinations of adapters")


@pytest.mark.parametrize(("folder", "name"), CASES, ids=lambda x: getattr(x, "name", x))
def test_a_combination(folder, name):
    meta, source, family, model, params, found = read(folder)
    options = {NAMES[key]: value for key, value in meta["specs"][name].items()}
    kind = next(k for k in sorted(merging.KINDS, key=len, reverse=True) if name.startswith(k))
    made = merging.adapters(found, meta["weights"], kind=kind, linears=model.linears, **options)
    merged = protocol.merge(params, made, model.linears)
    io, inputs = reference.io(folder), reference.io(source)
    batch = reference.batch_of(inputs["input_ids"], inputs["attention_mask"])
    x = model.hidden(
        merged, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segments"]
    )
    seen, logits = batch["segments"] > 0, np.asarray(model.logits(merged, x))
    np.testing.assert_allclose(logits[seen], io[f"logits/{name}"][seen], rtol=1e-4, atol=2e-4)
    deltas = {k.split("/")[2]: v for k, v in io.items() if k.startswith(f"delta/{name}/")}
    assert deltas
    for module in peft.modules(model.linears, family.NAMES):
        if module.name in deltas:
            before, after = (tree.paths(w)[module.path][module.layer] for w in (params, merged))
            change = np.asarray(after - before).reshape(module.inputs, module.outputs).T
            np.testing.assert_allclose(change, deltas[module.name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("folder", FOLDERS, ids=reference.id_of)
def test_both_active_is_the_sum(folder):
    _, source, _, model, params, found = read(folder)
    made = merging.adapters(found, [1.0] * len(found), kind="cat", linears=model.linears)
    inputs = reference.io(source)
    batch = reference.batch_of(inputs["input_ids"], inputs["attention_mask"])
    x = model.hidden(
        params, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segments"],
        adapters=made,
    )  # fmt: skip
    seen, logits = batch["segments"] > 0, np.asarray(model.logits(params, x, adapters=made))
    wanted = reference.io(folder)["logits/both_active"]
    np.testing.assert_allclose(logits[seen], wanted[seen], rtol=1e-4, atol=1e-4)
