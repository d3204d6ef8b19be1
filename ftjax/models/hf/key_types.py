"""What the keys of a config.json hold, by name and whatever the family: types and ranges.

    problem("hidden_size", "32")     -> "int"
    problem("rms_norm_eps", -1.0)    -> "above 0"

A wrong one would end in an error of somebody else's, or be taken for another: a text that is not
empty counts as true.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from ftjax.core import typed
from ftjax.core.typed import Natural, NonNegative, Positive, Range, Share

Size = Annotated[int, Range(low=1, high=2**31 - 1)]
Layers = Annotated[int, Range(low=1, high=10_000)]  # each is described on its own
Theta = Annotated[float, Range(low=0, high=1e12, open_low=True)]

TYPES: Mapping[str, Any] = {
    name: kind
    for kind, names in (
        (Size, (
            "decoder_sparse_step", "full_attention_interval", "global_head_dim", "head_dim",
            "hidden_size", "intermediate_size", "kv_lora_rank", "linear_conv_kernel_dim",
            "linear_key_head_dim", "linear_num_key_heads", "linear_num_value_heads",
            "linear_value_head_dim", "mamba_d_conv", "mamba_d_state",
            "mamba_expand", "mamba_n_groups", "mamba_n_heads", "max_position_embeddings",
            "moe_intermediate_size", "n_embd", "n_group", "n_head", "n_inner", "n_positions",
            "n_routed_experts", "no_rope_layer_interval", "num_attention_heads", "num_experts",
            "num_experts_per_tok", "num_global_key_value_heads", "num_key_value_heads",
            "num_local_experts", "original_max_position_embeddings", "qk_nope_head_dim",
            "qk_rope_head_dim", "shared_expert_intermediate_size", "shared_intermediate_size",
            "top_k_experts", "topk_group", "v_head_dim", "vocab_size",
            "vocab_size_per_layer_input",
        )),
        (Layers, ("num_hidden_layers", "n_layer")),
        (Natural, (
            "first_k_dense_replace", "hidden_size_per_layer_input", "max_window_layers",
            "n_shared_experts", "num_kv_shared_layers", "num_nextn_predict_layers",
        )),
        (Natural | None, ("q_lora_rank", "sliding_window")),
        (Size | str, ("mamba_d_head", "sliding_window_pattern")),  # "auto"; "LLLG"
        (bool, (
            "attention_bias", "attention_k_eq_v", "attention_out_bias", "enable_moe_block",
            "mamba_conv_bias", "mlp_bias", "norm_topk_prob", "output_router_logits", "qkv_bias",
            "rope_interleave", "tie_word_embeddings", "use_double_wide_mlp", "use_qk_norm",
            "use_sliding_window",
        )),
        (Positive, (
            "attention_multiplier", "embedding_multiplier", "layer_norm_epsilon", "logits_scaling",
            "query_pre_attn_scalar", "residual_multiplier", "rms_norm_eps", "routed_scaling_factor",
            "swiglu_alpha", "swiglu_limit",
        )),
        (Positive | None, ("attn_logit_softcapping", "final_logit_softcapping")),
        (NonNegative, ("initializer_range", "router_aux_loss_coef")),
        (Share, ("partial_rotary_factor",)),
        (Theta, ("rope_local_base_freq", "rope_theta")),
        (dict, (
            "per_layer_config", "quantization_config", "rope_parameters", "rope_scaling",
            "text_config",
        )),
        (list[str], ("layer_types",)),
        (list[int], ("mlp_only_layers", "no_rope_layers")),
        (list[float], ("time_step_limit",)),
    )
    for name in names
}  # fmt: skip


def problem(name: str, value: Any) -> str | None:
    """Return what the key `name` should hold where `value` is not that, None where it is."""
    return typed.problem(value, TYPES[name]) if name in TYPES else None
