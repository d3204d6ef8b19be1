"""Architectures by public name, as the contents of their config.json, for random initialisation.

    presets.PRESETS["llama3.2-1b"]["hidden_size"] == 2048

Our own `tiny` and `nano` are llamas small enough for a CPU.
"""

from typing import Any


def _llama3(
    dim: int, ffw: int, layers: int, heads: int, *, head_dim: int = 128, factor: float = 8.0,
    tied: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Fill in a Llama 3.1 or 3.2: eight kv heads, 128k positions by rotary rescaling."""
    # Both are rescaled from 8192 positions: 3.1 by a factor of 8, the small models of 3.2 by 32.
    scaling = {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    return dict(
        model_type="llama", vocab_size=128256, hidden_size=dim, intermediate_size=ffw,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8,
        head_dim=head_dim, rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=scaling,
        tie_word_embeddings=tied, max_position_embeddings=131072, hidden_act="silu",
        initializer_range=0.02, bos_token_id=128000, eos_token_id=128001,
    )  # fmt: skip


def _qwen(
    kind: str, dim: int, ffw: int, layers: int, heads: int, kv_heads: int, *, head_dim: int,
    positions: int, tied: bool, vocab: int = 151936, eps: float = 1e-6,
) -> dict[str, Any]:  # fmt: skip
    """Fill in a Qwen2.5 or a dense Qwen3."""
    return dict(
        model_type=kind, vocab_size=vocab, hidden_size=dim, intermediate_size=ffw,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=head_dim, rms_norm_eps=eps, rope_theta=1000000.0, tie_word_embeddings=tied,
        max_position_embeddings=positions, hidden_act="silu", initializer_range=0.02,
        use_sliding_window=False, bos_token_id=151643, eos_token_id=151643,
    )  # fmt: skip


def _phi3(
    dim: int, ffw: int, layers: int, heads: int, kv_heads: int, *, positions: int, window: int,
    scaling: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fill in a Phi-3, of 4k positions before any rescaling."""
    return dict(
        model_type="phi3", vocab_size=32064, hidden_size=dim, intermediate_size=ffw,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=scaling, tie_word_embeddings=False,
        max_position_embeddings=positions, original_max_position_embeddings=4096,
        sliding_window=window, hidden_act="silu", initializer_range=0.02, bos_token_id=1,
        eos_token_id=32000,
    )  # fmt: skip


# By pair of features; the numbers of the released model, which are float32.
PHI3_MINI_LONG = [
    1.07, 1.12, 1.15, 1.42, 1.5699999, 1.8, 2.1299999, 2.1299999, 3.01, 5.9100003, 6.9500003,
    9.070001, 9.93, 10.71, 11.13, 14.61, 15.409999, 19.81, 37.28, 38.28, 38.6, 40.120003,
    46.200005, 50.940006, 53.660007, 54.93739, 56.89739, 57.287388, 59.987385, 60.867386,
    60.887386, 61.717392, 62.917393, 62.957394, 63.417393, 63.817394, 63.837395, 63.897396,
    63.937397, 64.0674, 64.11435, 64.12435, 64.15435, 64.19435, 64.244354, 64.574356, 64.69,
    64.76,
]  # fmt: skip
PHI3_MINI_SHORT = [
    *[1.1] * 3, 1.3, 1.35, 1.35, 1.4, 1.55, *[2.0] * 17, *[2.05] * 6, 2.1, 2.1, 2.15, *[2.25] * 5,
    2.4, 2.45, 2.5, 2.7, 2.7, 2.75, 2.8, 2.9, 3.05,
]  # fmt: skip


def _gpt2(dim: int, layers: int, heads: int) -> dict[str, Any]:
    """Fill in a GPT-2."""
    return dict(
        model_type="gpt2", vocab_size=50257, n_embd=dim, n_layer=layers, n_head=heads,
        n_positions=1024, layer_norm_epsilon=1e-5, activation_function="gelu_new",
        initializer_range=0.02, bos_token_id=50256, eos_token_id=50256,
    )  # fmt: skip


def _experts(
    kind: str, dim: int, ffw: int, layers: int, kv_heads: int, *, vocab: int, positions: int,
    eps: float, coefficient: float, **own,
) -> dict[str, Any]:  # fmt: skip
    """Fill in a mixture of experts; `own` are the keys of its family."""
    return dict(
        model_type=kind, vocab_size=vocab, hidden_size=dim, intermediate_size=ffw,
        num_hidden_layers=layers, num_attention_heads=32, num_key_value_heads=kv_heads,
        head_dim=128, rms_norm_eps=eps, rope_theta=1000000.0, tie_word_embeddings=False,
        max_position_embeddings=positions, hidden_act="silu", initializer_range=0.02,
        router_aux_loss_coef=coefficient,
    ) | own  # fmt: skip


def _mistral(*, vocab: int, theta: float, window: int | None) -> dict[str, Any]:
    """Fill in a release of Mistral 7B."""
    return dict(
        model_type="mistral", vocab_size=vocab, hidden_size=4096, intermediate_size=14336,
        num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        rms_norm_eps=1e-5, rope_theta=theta, sliding_window=window, tie_word_embeddings=False,
        max_position_embeddings=32768, hidden_act="silu", initializer_range=0.02, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip


def _gemma(
    kind: str, dim: int, ffw: int, layers: int, heads: int, kv_heads: int, *, head_dim: int = 256,
    vocab: int = 256000, positions: int = 8192, theta: float = 10000.0, **own,
) -> dict[str, Any]:  # fmt: skip
    """Fill in a Gemma of any generation; `own` are the keys of one."""
    return dict(
        model_type=kind, vocab_size=vocab, hidden_size=dim, intermediate_size=ffw,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=head_dim, rms_norm_eps=1e-6, rope_theta=theta, tie_word_embeddings=True,
        max_position_embeddings=positions, hidden_activation="gelu_pytorch_tanh",
        initializer_range=0.02, bos_token_id=2, eos_token_id=1, pad_token_id=0,
    ) | own  # fmt: skip


def _gemma2(*sizes: int, scalar: int = 256, head_dim: int = 256) -> dict[str, Any]:
    """Fill in a Gemma 2."""
    return _gemma(
        "gemma2", *sizes, head_dim=head_dim, query_pre_attn_scalar=scalar, sliding_window=4096,
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
    )  # fmt: skip


def _olmo2(dim: int, ffw: int, layers: int, heads: int) -> dict[str, Any]:
    """Fill in an OLMo 2 without grouped queries."""
    return dict(
        model_type="olmo2", vocab_size=100352, hidden_size=dim, intermediate_size=ffw,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        rms_norm_eps=1e-6, rope_theta=500000.0, tie_word_embeddings=False,
        max_position_embeddings=4096, hidden_act="silu", initializer_range=0.02,
        eos_token_id=100257, pad_token_id=100277,
    )  # fmt: skip


def _small(
    dim: int, ffw: int, layers: int, *, heads: int, kv_heads: int, head_dim: int, vocab: int,
    positions: int,
) -> dict[str, Any]:  # fmt: skip
    """Fill in a small tied llama.

    Its weights begin at about 1/sqrt(dim); at 0.02 it takes twice the tokens to learn to copy.
    """
    return dict(
        model_type="llama", vocab_size=vocab, hidden_size=dim, intermediate_size=ffw,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=head_dim, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
        max_position_embeddings=positions, hidden_act="silu", initializer_range=0.08,
    )  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    "llama3.1-8b": _llama3(4096, 14336, 32, 32),
    "llama3.1-70b": _llama3(8192, 28672, 80, 64),
    "llama3.2-1b": _llama3(2048, 8192, 16, 32, head_dim=64, factor=32.0, tied=True),
    "llama3.2-3b": _llama3(3072, 8192, 28, 24, factor=32.0, tied=True),
    "qwen2.5-0.5b": _qwen(
        "qwen2", 896, 4864, 24, 14, 2, head_dim=64, positions=32768, tied=True
    ),
    "qwen2.5-1.5b": _qwen(
        "qwen2", 1536, 8960, 28, 12, 2, head_dim=128, positions=131072, tied=True
    ),
    "qwen2.5-3b": _qwen(
        "qwen2", 2048, 11008, 36, 16, 2, head_dim=128, positions=32768, tied=True
    ),
    "qwen2.5-7b": _qwen(
        "qwen2", 3584, 18944, 28, 28, 4, head_dim=128, positions=131072, tied=False, vocab=152064
    ),
    "qwen2.5-14b": _qwen(
        "qwen2", 5120, 13824, 48, 40, 8, head_dim=128, positions=131072, tied=False, vocab=152064,
        eps=1e-5,
    ),
    "qwen2.5-32b": _qwen(
        "qwen2", 5120, 27648, 64, 40, 8, head_dim=128, positions=131072, tied=False, vocab=152064,
        eps=1e-5,
    ),
    "qwen2.5-72b": _qwen(
        "qwen2", 8192, 29568, 80, 64, 8, head_dim=128, positions=131072, tied=False, vocab=152064,
        eps=1e-5,
    ),
    "qwen3-0.6b": _qwen("qwen3", 1024, 3072, 28, 16, 8, head_dim=128, positions=40960, tied=True),
    "qwen3-1.7b": _qwen("qwen3", 2048, 6144, 28, 16, 8, head_dim=128, positions=40960, tied=True),
    "qwen3-4b": _qwen("qwen3", 2560, 9728, 36, 32, 8, head_dim=128, positions=40960, tied=True),
    "qwen3-8b": _qwen("qwen3", 4096, 12288, 36, 32, 8, head_dim=128, positions=40960, tied=False),
    "phi3-mini-4k": _phi3(3072, 8192, 32, 32, 32, positions=4096, window=2047),
    "phi3-mini-128k": _phi3(
        3072, 8192, 32, 32, 32, positions=131072, window=262144,
        scaling=dict(
            type="longrope", long_factor=PHI3_MINI_LONG, short_factor=PHI3_MINI_SHORT
        ),
    ),
    "phi3-medium-4k": _phi3(5120, 17920, 40, 40, 10, positions=4096, window=2047),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "mixtral-8x7b": _experts(
        "mixtral", 4096, 14336, 32, 8, vocab=32000, positions=32768, eps=1e-5, coefficient=0.02,
        num_local_experts=8, num_experts_per_tok=2, sliding_window=None, bos_token_id=1,
        eos_token_id=2,
    ),
    "qwen3-30b-a3b": _experts(
        "qwen3_moe", 2048, 6144, 48, 4, vocab=151936, positions=40960, eps=1e-6, coefficient=0.001,
        num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[], use_sliding_window=False, bos_token_id=151643,
        eos_token_id=151645,
    ),
    "qwen3-14b": _qwen(
        "qwen3", 5120, 17408, 40, 40, 8, head_dim=128, positions=40960, tied=False
    ),
    "qwen3-32b": _qwen(
        "qwen3", 5120, 25600, 64, 64, 8, head_dim=128, positions=40960, tied=False
    ),
    "mistral-7b-v0.1": _mistral(vocab=32000, theta=10000.0, window=4096),
    "mistral-7b-v0.3": _mistral(vocab=32768, theta=1000000.0, window=None),
    "gemma-2b": _gemma("gemma", 2048, 16384, 18, 8, 1),
    "gemma-7b": _gemma("gemma", 3072, 24576, 28, 16, 16),
    "gemma2-2b": _gemma2(2304, 9216, 26, 8, 4),
    "gemma2-9b": _gemma2(3584, 14336, 42, 16, 8),
    "gemma2-27b": _gemma2(4608, 36864, 46, 32, 16, scalar=144, head_dim=128),
    "gemma3-1b": _gemma(
        "gemma3_text", 1152, 6912, 26, 4, 1, vocab=262144, positions=32768, theta=1000000.0,
        query_pre_attn_scalar=256, sliding_window=512, sliding_window_pattern=6,
        rope_local_base_freq=10000.0,
    ),
    "olmo2-1b": _olmo2(2048, 8192, 16, 16),
    "olmo2-7b": _olmo2(4096, 11008, 32, 32),
    "olmo2-13b": _olmo2(5120, 13824, 40, 40),
    "tiny": _small(
        128, 384, 6, heads=4, kv_heads=2, head_dim=32, vocab=2048, positions=512
    ),
    # Beside the embedded base in size, for questions that want several.
    "tiny-0.1m": _small(
        32, 96, 2, heads=2, kv_heads=1, head_dim=16, vocab=2048, positions=512
    ),
    "tiny-0.3m": _small(
        64, 192, 4, heads=4, kv_heads=2, head_dim=16, vocab=2048, positions=512
    ),
    "nano": _small(32, 48, 2, heads=4, kv_heads=2, head_dim=8, vocab=64, positions=64),
}  # fmt: skip
