import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ftjax.train.fingerprint import fingerprint


def params():
    key = jax.random.key(0)
    return {
        "q": jax.random.normal(key, (16, 8)),
        "norm": {"scale": jnp.arange(8, dtype=jnp.bfloat16)},
        "codes": jnp.arange(16, dtype=jnp.int8),
        "hole": None,
    }


def test_equal_on_any_mesh():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    split = jax.device_put(params(), NamedSharding(mesh, PartitionSpec("x")))
    assert fingerprint(split) == fingerprint(params())


def test_sees_one_bit_a_swap_a_name_and_a_dtype():
    seen = {fingerprint(params())}
    changed = params()
    bits = np.asarray(changed["q"]).view(np.uint32).copy()
    bits[3, 5] ^= 1
    seen.add(fingerprint(changed | {"q": jnp.asarray(bits.view(np.float32))}))
    seen.add(fingerprint(changed | {"q": changed["q"][::-1]}))
    seen.add(fingerprint(changed | {"codes": changed["codes"].astype(jnp.int16)}))
    seen.add(fingerprint({"k" if name == "q" else name: x for name, x in changed.items()}))
    assert len(seen) == 5
