"""What the backward pass keeps of a block, and what it makes again (arXiv:1604.06174).

    none    everything
    light   what is dear to make: results of linear maps and of attention; norms, activations and
            rotations are made again while their inputs are at hand
    full    only the block's input

    light_offload, full_offload     the same, kept in the host's memory until it is needed again

What is kept on the host leaves the device while later blocks run, and comes back as fast as the
link to the host allows; a CPU has one memory, in which it stays where it is.
On a CPU `light` is the fastest too: making an elementwise result again costs less than writing it
to memory and reading it back.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# All that is dear to compute again; see where `keep` is called.
KEPT = "kept"
# What a kernel of attention keeps by itself under one name: results, and a float32 sum a query.
KERNEL = "kept_by_kernel"
SUM = "kept_sum"  # such a sum of our own
# What cuDNN's attention keeps has no name; the rule is by what makes it.
CUDNN = "dot_product_attention_fwd"
# Of a block's input, which the other policies keep without a name, on the device.
INPUT = "block_input"


def _offloaded(*names: str, saved: tuple[str, ...] = ()) -> Callable:
    by_name = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=list(saved), names_which_can_be_offloaded=list(names),
        # Pinned, which devices read without the processor's help.
        offload_src="device", offload_dst="pinned_host",
    )  # fmt: skip

    def policy(primitive, *avals, **params):
        # Sums are a hundredth of what is kept, and libtpu 0.0.52 does not compile them from there.
        is_sum = params.get("name") == KERNEL and avals[0].dtype == jnp.float32
        return is_sum or by_name(primitive, *avals, **params)

    return policy


def _light(primitive, *avals, **params):
    return primitive.name.startswith(CUDNN) or _by_name(primitive, *avals, **params)


_by_name = jax.checkpoint_policies.save_only_these_names(KEPT, KERNEL, SUM)
# By name and not by size: what is dear is known where it is made, and stays right as shapes change.
POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "light": _light,
    "full": jax.checkpoint_policies.nothing_saveable,
    "light_offload": _offloaded(KEPT, KERNEL, INPUT, saved=(SUM,)),
    "full_offload": _offloaded(INPUT),
}


def keep(x: jax.Array) -> jax.Array:
    """Mark an array that `light` keeps, if the backward pass needs it at all."""
    return checkpoint_name(x, KEPT)


def keep_sum(x: jax.Array) -> jax.Array:
    """Mark a number a query and head, which `light` keeps too, on the device in any case."""
    return checkpoint_name(x, SUM)


def entered(layer: Callable, policy: str) -> Callable:
    """Let a layer `(x, ...)` mark its input where the policy keeps it on the host."""
    if not policy.endswith("_offload"):
        return layer
    # What comes before a name is kept where it is: the whole layer has to come after it.
    return lambda x, *rest: layer(checkpoint_name(x, INPUT), *rest)


def check(name: str) -> None:
    """Raise ValueError when there is no policy of that name."""
    if name not in POLICIES:
        raise ValueError(f"model.remat: got {name!r}; expected one of {', '.join(POLICIES)}")
