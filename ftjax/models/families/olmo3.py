"""OLMo 3: OLMo 2's block, with windows in three of four layers and rescaled positions elsewhere."""

import dataclasses
from typing import Any

from ftjax.models import decoder
from ftjax.models.families import gemma, llama, olmo2
from ftjax.models.hf import config as hf_config
from ftjax.ops import rope

make, NAMES = olmo2.make, olmo2.NAMES
EXAMPLE = llama.EXAMPLE | dict(
    model_type="olmo3", num_hidden_layers=4, sliding_window=4,
    layer_types=["sliding_attention", "full_attention"] * 2,
    rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=8, beta_fast=4.0,
        beta_slow=0.1,
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(llama.Config):
    """Layer i has the window if `local[i % len(local)]`; only the others rescale positions."""

    local: tuple[bool, ...]

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """Local and global layers in turn."""
        # Within a window positions are never farther apart than in pretraining.
        near = decoder.Kind("blocks", self.window, rope.Rope(self.rope.theta))
        far = decoder.Kind("blocks", None, self.rope)
        return tuple(near if local else far for local in self.locals)

    @property
    def locals(self) -> tuple[bool, ...]:
        """Which layers are local."""
        return tuple(self.local[i % len(self.local)] for i in range(self.layers))


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `olmo3`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("attention_bias", [False], False)  # absent: Olmo3Config says no
    config = llama.read_common(
        keys, kind=Config, qkv_bias=False, qk_norm=True, rope=_read_rope(keys),
        local=gemma.read_local(keys, every=4),  # absent: Olmo3Config has each fourth global
        # Absent: Olmo3Config says 4096 and 1e-5.
        window=keys.get("sliding_window", 4096), norm_eps=keys.get("rms_norm_eps", 1e-5),
    )  # fmt: skip
    keys.finish()
    return config


def _read_rope(keys: hf_config.Keys) -> rope.Rope:
    """Read the rotary embedding of global layers; that of local ones has its base alone."""
    nested = keys.get("rope_parameters", {})
    if not set(gemma.LOCAL.values()) <= nested.keys():
        return keys.rope(default_theta=500000.0)  # absent: Olmo3Config says 500000
    near, far = (dict(nested[gemma.LOCAL[local]]) for local in (True, False))
    far.pop("truncate", None)  # the reference reads it in configs of one rotary embedding alone
    found, local = (keys.rope_of(each, theta=each.pop("rope_theta")) for each in (far, near))
    # Only what `Config` can say: one base, and a rescaling of global layers alone.
    if local != rope.Rope(found.theta):
        raise ValueError(
            f"{keys.where}: got rope_parameters of local layers {near}; expected the base of the "
            f"global ones, {found.theta}, not rescaled"
        )
    return found


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    common = {k: v for k, v in llama.write_common(config).items() if k != "head_dim"}
    return common | {
        "architectures": ["Olmo3ForCausalLM"],
        "attention_bias": False,
        "layer_types": [gemma.LOCAL[local] for local in config.locals],
        "model_type": "olmo3",
        "sliding_window": config.window,
    }
