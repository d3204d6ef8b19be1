r"""Compare our steps and generation with a plain loop of torch, PEFT and transformers, in one run.

    pip install '.[check]'
    python -m scripts.bench_peers                                 all cases
    python -m scripts.bench_peers --cases dpo_full,generate_16 --turns 20

Each side is compiled or warmed up in a process of its own; then they take turns of a second or so,
and whoever has no turn is stopped, for idle threads of torch spin (OMP_WAIT_POLICY=ACTIVE, without
which it is slower). Shapes are those of scripts/bench_train.py and bench_preference.py, float32:
8 x 256 tokens through dim 256 and 4 layers, LoRA of rank 8 on all linear maps, AdamW with clipping;
4 pairs of 2 x 256, of which 64 are the prompt. The peers' loop is what one would write: attention
by sdpa, the fused AdamW, the reference with adapters off or a frozen copy. Generation draws 64
tokens after 64 with a Llama of 42M parameters. Ratios are (their seconds) / (ours): above 1 we are
the faster. JSON lines come out.
"""

import argparse
import copy
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from scripts import bench_against

CASES = (
    "sft_lora", "sft_full", "dpo_lora", "dpo_full", "generate_1", "generate_16",
)  # fmt: skip
SIDES = ("theirs", "ours")
WIDE = dict(dim=512, layers=8, heads=8, kv_heads=8, ffw=2048, vocab=16384, batch=0)
PROMPT = NEW = 64
BETA = 0.1


# -- ours ------------------------------------------------------------------------------------------


def ours(case: str) -> Callable:
    """Return a function that runs a case once, by ftjax."""
    kind, size = case.split("_")
    return _our_generation(int(size)) if kind == "generate" else bench_against.call_of(case)


def _our_generation(rows: int) -> Callable:
    import jax
    import numpy as np

    from ftjax.sampling import generation
    from scripts import bench_train

    model = bench_train.model_of(WIDE)
    params = {"model": jax.jit(model.init)(jax.random.key(0))}
    prompts = np.random.default_rng(0).integers(3, WIDE["vocab"], (rows, PROMPT)).astype(np.int32)
    run = generation.make(model, max_new_tokens=NEW, temperature=1.0, cache_dtype=None)
    lengths, key = np.full(rows, PROMPT, np.int32), jax.random.key(0)
    return lambda: jax.block_until_ready(run(params, prompts, lengths, key))


# -- theirs ----------------------------------------------------------------------------------------


def theirs(case: str) -> Callable:
    """Return a function that runs a case once, by torch, transformers and PEFT."""
    from scripts import bench_train

    kind, size = case.split("_")
    if kind == "generate":
        return _their_generation(int(size))
    return _their_step(kind, _llama(bench_train.SHAPES["small"]), is_lora=size == "lora")


def _llama(shape: dict):
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=shape["vocab"], hidden_size=shape["dim"], intermediate_size=shape["ffw"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"], max_position_embeddings=256,
        tie_word_embeddings=True, attn_implementation="sdpa", bos_token_id=None, eos_token_id=None,
        pad_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def _their_step(kind: str, model, *, is_lora: bool) -> Callable:
    import peft
    import torch

    reference = None
    if is_lora:
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0)
        model = peft.get_peft_model(model, config)
    elif kind == "dpo":
        reference = copy.deepcopy(model).requires_grad_(False)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
    loss_of = _dpo(model, reference) if kind == "dpo" else _sft(model)

    def run():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    return run


def _tokens(rows: int, vocab: int, length: int):
    import torch

    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(0))


def _nlls(model, tokens):
    """Return the loss of each token but the first, [B, T-1]."""
    import torch

    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    flat = logits.flatten(0, 1), tokens[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(*flat, reduction="none").view(len(tokens), -1)


def _sft(model) -> Callable:
    from scripts import bench_train

    shape = bench_train.SHAPES["small"]
    tokens = _tokens(shape["batch"], shape["vocab"], bench_train.SEQUENCE)
    return lambda: _nlls(model, tokens).mean()


def _dpo(model, reference) -> Callable:
    import torch

    from scripts import bench_preference as preference
    from scripts import bench_train

    # Rows: the chosen answers, then the rejected ones, behind the same prompts.
    vocab, rows = bench_train.SHAPES["small"]["vocab"], preference.PAIRS
    tokens = _tokens(2 * rows, vocab, preference.SEQUENCE)
    tokens[rows:, : preference.PROMPT] = tokens[:rows, : preference.PROMPT]
    sums = lambda policy: -_nlls(policy, tokens)[:, preference.PROMPT - 1 :].sum(1)

    def loss():
        policy = sums(model)
        with torch.no_grad():
            if reference is None:
                with model.disable_adapter():
                    base = sums(model)
            else:
                base = sums(reference)
        chosen, rejected = (policy - base).split(rows)
        return -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()

    return loss


def _their_generation(rows: int) -> Callable:
    import torch

    model, prompts = _llama(WIDE).eval(), _tokens(rows, WIDE["vocab"], PROMPT)
    options = dict(max_new_tokens=NEW, min_new_tokens=NEW, do_sample=True, temperature=1.0, top_k=0)
    seen = torch.ones_like(prompts)

    def run():
        with torch.inference_mode():
            found = model.generate(prompts, attention_mask=seen, pad_token_id=0, **options)
        assert found.shape == (rows, PROMPT + NEW)

    return run


# -- turns -----------------------------------------------------------------------------------------


class Side(bench_against.Side):
    """The process of a side, which stands still when it is not its turn."""

    def __init__(self, who: str, case: str):
        given = {"JAX_PLATFORMS": "cpu", "OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "infinite"}
        command = [sys.executable, "-m", "scripts.bench_peers", "--serve", f"{who} {case}"]
        self._process = subprocess.Popen(
            command, env=os.environ | given, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit(f"error: {who} cannot run {case}; see the message above")
        self._process.send_signal(signal.SIGSTOP)

    def take(self, count: int) -> list[float]:
        """Return seconds of a call, the processor's, and the peak memory in GiB."""
        self._process.send_signal(signal.SIGCONT)
        found = super().take(count)
        self._process.send_signal(signal.SIGSTOP)
        return found

    def end(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGCONT)
        super().end()


def main() -> None:
    """Print a line for each case."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--cases", default=",".join(CASES), help="some of them, with commas")
    parser.add_argument("--turns", type=int, default=20, help="of each side, at least 4")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        who, case = given.serve.split()
        return bench_against.serve({"theirs": theirs, "ours": ours}[who](case))
    cases = given.cases.split(",")
    if wrong := set(cases) - set(CASES):
        parser.error(f"--cases: got {sorted(wrong)[0]!r}; expected one of {', '.join(CASES)}")
    for case in cases:
        makers = [functools.partial(Side, who, case) for who in SIDES]
        bench_against.show(bench_against.compare(case, makers, given.turns, names=SIDES))


if __name__ == "__main__":
    main()
