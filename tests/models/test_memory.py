"""What the host holds while a checkpoint is read, and a program while it generates: measured."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import tree
from ftjax.models.families import gemma2, llama
from ftjax.models.hf import checkpoint
from ftjax.sampling import generation

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOISE = 2**23  # bytes: allocators, tables, what jax makes on the way
SCRIPT = """
import json, re, sys
import jax
from ftjax.core import mesh as meshes, tree
from ftjax.models.hf import checkpoint as hf

def most():
    status = open("/proc/self/status").read()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])

directory, options, dtype = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] or None
family, config = hf.config_of(directory)
model, mesh = family.make(config), meshes.make(**options) if options else None
model.abstract, jax.block_until_ready(jax.numpy.zeros(1) + 1)
before = most()
found = jax.block_until_ready(
    hf.load(directory, model, names=family.NAMES, dtype=dtype, mesh=mesh)
)
shards = [s.data.nbytes for leaf in jax.tree.leaves(found) for s in leaf.addressable_shards]
print(json.dumps(dict(grown=most() - before, shards=sum(shards), arrays=tree.bytes_of(found))))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random llama of 135 MB in bfloat16: one tensor of 33 MB, twelve of 8, small ones."""
    sizes = dict(vocab_size=32000, hidden_size=512, intermediate_size=8192, num_hidden_layers=4)
    config = llama.from_hf(llama.EXAMPLE | sizes | dict(head_dim=64))
    noise = np.random.default_rng(0).normal(size=2**18).astype(jnp.bfloat16)
    fill = lambda _, leaf: np.resize(noise, leaf.shape)
    params = tree.map_with_paths(fill, llama.make(config).abstract)
    out = tmp_path_factory.mktemp("memory") / "model"
    checkpoint.save(out, params, family=llama, config=config, max_shard_gb=0.05)
    return out


@pytest.mark.parametrize(
    ("mesh", "dtype"),
    [({}, ""), ({}, "float32"), (dict(data=2, fsdp=2, tensor=2), "")],
)
def test_beside_its_shards_a_host_holds_less_than_half_of_the_largest_tensor(
    directory, mesh, dtype
):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, directory, json.dumps(mesh), dtype], cwd=ROOT, check=True,
        env=dict(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="8" if mesh else "1"), timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    largest = 32000 * 512 * 2
    assert found["arrays"] > 4 * largest
    assert found["shards"] >= found["arrays"] * (2 if mesh else 1)  # each replica has its own
    assert found["grown"] < found["shards"] + 0.5 * largest + NOISE


@pytest.mark.parametrize("family", [llama, gemma2], ids=["one kind", "two kinds"])
def test_a_token_reads_the_weights_where_they_lie(family):
    """Otherwise every token first copies all of them."""
    wide = dict(hidden_size=128, intermediate_size=1024, num_hidden_layers=8)
    model = family.make(family.from_hf(family.EXAMPLE | wide))
    generate = jax.jit(generation.make(model, max_new_tokens=8))
    prompts, key = np.zeros((1, 16), np.int32), jax.random.key(0)
    program = generate.lower(dict(model=model.abstract), prompts, np.int32([16]), key).compile()
    layer = tree.bytes_of(model.abstract["blocks"]) / 8
    # Of a group of two layers the compiler takes out both at once.
    assert program.memory_analysis().temp_size_in_bytes < 3 * layer
