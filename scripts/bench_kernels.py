r"""Time the products and the attention of a layer, each in the forms that there are.

    python -m scripts.bench_kernels                         shapes of Llama 8B, bfloat16
    JAX_PLATFORMS=cpu python -m scripts.bench_kernels --tiny

A product is [tokens, 4096] x [4096, 14336]: as the models multiply, written in float32 and rounded
in a second kernel, and as XLA's own bfloat16 product; and how many numbers of the first are not
those of the second. Attention is forward and backward, over rows of one text and rows of four: the
form that a run takes, the same with a mask alone, cuDNN's causal kernel, and blocks of XLA's
products. Prints milliseconds (medians) and TFLOP/s of what a causal mask leaves, as if each row
were one text; a form that a device has not is told with its error.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import mesh as meshes
from ftjax.ops import fast, products
from ftjax.ops.visible import Visible, visible_keys

INNER, WIDE = 4096, 14336
HEADS, KEY_HEADS, HEAD_DIM = 32, 8, 128


def milliseconds(call, *arrays, repeats: int) -> float:
    """Return the median time of a compiled call; each is waited for."""
    call = jax.jit(call)
    for _ in range(2):
        jax.block_until_ready(call(*arrays))
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call(*arrays))
        found.append(time.perf_counter() - start)
    return 1e3 * statistics.median(found)


def draw(seed: int, *shape: int) -> jax.Array:
    """Draw normal numbers in bfloat16."""
    return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)


def show(name: str, call, *arrays, flops: float, repeats: int) -> None:
    """Print a line about one form."""
    try:
        ms = milliseconds(call, *arrays, repeats=repeats)
    except (ValueError, RuntimeError) as error:
        print(f"{name:44s} not here: {' '.join(str(error).split())[:120]}", flush=True)
        return
    print(f"{name:44s} {ms:9.3f} ms {flops / ms / 1e9:8.1f} TFLOP/s", flush=True)


def of_products(tokens: int, shrink: int, repeats: int) -> None:
    """Compare products."""
    inner, wide = INNER // shrink, WIDE // shrink
    x, w = draw(0, tokens, inner), draw(1, inner, wide)
    given = dict(flops=2 * tokens * inner * wide, repeats=repeats)
    rounded = lambda x, w: products.summed("mk,kn->mn", x, w).astype(x.dtype)
    forms = {"as models": products.matmul, "rounded later": rounded, "XLA's own": jnp.matmul}
    for name, form in forms.items():
        show(f"product, {name}", form, x, w, **given)
        activated = lambda x, w, form=form: jax.nn.silu(form(x, w))
        show(f"product and silu, {name}", activated, x, w, **given)
    with jax.default_matmul_precision("highest"):
        apart = [jax.jit(f)(x, w) for f in (products.matmul, rounded)]
    print(f"numbers of the products that differ: {(apart[0] != apart[1]).mean():.2e}", flush=True)


def described(rows: int, length: int, texts: int) -> Visible:
    """Describe rows of as many texts."""
    text = np.arange(length) * texts // length
    at = np.arange(length) - np.searchsorted(text, text)
    wide = lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.int32), (rows, length))
    return visible_keys(wide(at), wide(text + 1))


def forms_of_attention() -> dict:
    """Return functions of (q, k, v, what is visible)."""
    scale = HEAD_DIM**-0.5
    cudnn = functools.partial(jax.nn.dot_product_attention, scale=scale, implementation="cudnn")
    return {
        "as a run": lambda q, k, v, seen: fast.attend(q, k, v, None, seen, scale, None),
        "cuDNN, mask": lambda q, k, v, seen: cudnn(q, k, v, mask=seen.mask()[:, None]),
        "cuDNN, causal": lambda q, k, v, seen: cudnn(q, k, v, is_causal=True),
    }


def of_attention(forms: dict, rows: int, length: int, shrink: int, repeats: int) -> None:
    """Compare forms of attention."""
    heads, keys = max(HEADS // shrink, 2), max(KEY_HEADS // shrink, 1)
    q = draw(0, rows, length, heads, HEAD_DIM)
    k, v = (draw(i, rows, length, keys, HEAD_DIM) for i in (1, 2))
    flops = 3.5 * 2 * rows * heads * length**2 * HEAD_DIM  # 2 + 5 products, half of each
    for texts in (1, 4):
        seen = described(rows, length, texts)
        for name, form in forms.items():
            if texts > 1 and "causal" in name:
                continue
            loss = lambda q, k, v, seen, form=form: jnp.square(form(q, k, v, seen)).mean()
            grad = jax.grad(loss, argnums=(0, 1, 2))
            label = f"attention {rows}x{length}, {texts} texts: {name}"
            show(label, grad, q, k, v, seen, flops=flops, repeats=repeats)


def main() -> None:
    """Print a line a form."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--tokens", type=int, default=8192, help="of a batch")
    p.add_argument("--lengths", type=int, nargs="+", default=[4096], help="of rows")
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--tiny", action="store_true", help="small shapes, for any machine")
    given = p.parse_args()
    shrink = 16 if given.tiny else 1
    tokens = given.tokens // shrink
    print(jax.devices()[0].device_kind, flush=True)
    shapes = [(max(tokens // n, 1), n) for n in (n // shrink for n in given.lengths)]
    forms = forms_of_attention()
    with jax.set_mesh(meshes.make(devices=jax.devices()[:1])):
        of_products(tokens, shrink, given.repeats)
        for shape in shapes:
            of_attention(forms, *shape, shrink, given.repeats)
    # Without a mesh nobody knows what a program is for, and it has no kernel.
    for shape in shapes:
        of_attention({"blocks of products": forms["as a run"]}, *shape, shrink, given.repeats)


if __name__ == "__main__":
    main()
