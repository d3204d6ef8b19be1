"""What the backward pass keeps of a block, and what it makes again (arXiv:1604.06174).

    none    everything
    light   what is dear to make: results of linear maps and of attention; norms, activations and
            rotations are made again while their inputs are at hand
    full    only the block's input

On a CPU `light` is the fastest too: making an elementwise result again costs less than writing it
to memory and reading it back.
"""

import jax
from jax.ad_checkpoint import checkpoint_name

# One name for all that is dear to compute again; see where `keep` is called.
KEPT = "kept"
# By name and not by size: what is dear is known where it is made, and stays right as shapes change.
POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "light": jax.checkpoint_policies.save_only_these_names(KEPT),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def keep(x: jax.Array) -> jax.Array:
    """Mark an array that `light` keeps, if the backward pass needs it at all."""
    return checkpoint_name(x, KEPT)


def check(name: str) -> None:
    """Raise ValueError when there is no policy of that name."""
    if name not in POLICIES:
        raise ValueError(f"model.remat: got {name!r}; expected one of {', '.join(POLICIES)}")
