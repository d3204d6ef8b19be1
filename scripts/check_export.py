"""Open our exports in PEFT and transformers and compare logits.

    python -m scripts.check_export --make DIR            here: a small model, its adapters
    THEIRS/bin/python scripts/check_export.py --check DIR    where torch, transformers and peft are

The second stage imports nothing of ours (extra `check`), and ends with 1 where logits differ.
"""

import argparse
import pathlib
import sys

import numpy as np

TOLERANCE = 2e-3  # of logits of size 10 or so in float32
TOKENS = np.arange(24, dtype=np.int32).reshape(2, 12) * 7 % 31


def make(out: pathlib.Path) -> None:
    """Write a model, its merged forms and its adapters with the logits that we compute."""
    import jax

    from ftjax.adapters.lib import protocol as base
    from ftjax.adapters.multi import catalogue
    from ftjax.adapters.peft import io as peft
    from ftjax.models.families import llama
    from ftjax.models.hf import checkpoint

    model = llama.make(llama.from_hf(llama.EXAMPLE))
    weights = model.init(jax.random.key(0))
    given = dict(linears=model.linears, names=llama.NAMES)
    save = lambda name, w: checkpoint.save(out / name, w, family=llama, config=model.config)
    save("base", weights)
    _expect(out / "base", model, weights, None)
    for name, module in catalogue.modules().items():
        if catalogue.is_of_model(name):
            continue
        made = module.make(**module.EXAMPLE)
        if base.is_informed(made):
            continue
        adapters = base.init(made, jax.random.key(1), model.linears, weights, where="blocks/**")
        adapters = _moved(adapters, base)
        folder = out / f"adapter_{name}"
        try:
            peft.save(folder, adapters, base_model=str(out / "base"), hyper=module.EXAMPLE,
                      weights=weights, **given)  # fmt: skip
        except ValueError as error:
            print(f"{name}: not in PEFT: {error}")
            continue
        _expect(folder, model, weights, adapters)
        save(f"merged_{name}", base.merge(weights, adapters, model.linears))
        _expect(out / f"merged_{name}", model, weights, adapters)


def _moved(adapters, base):
    """Move what trains of every adapter a little."""
    import jax

    result = {}
    for path, adapter in base.sites(adapters).items():
        data = {name: vars(adapter)[name] for name in adapter.FROZEN}
        moved = jax.tree.map(
            lambda x: x + 0.05 * np.cos(np.arange(x.size).reshape(x.shape)), adapter
        )
        base.insert(result, path, type(adapter)(**(vars(moved) | data)))
    return result


def _expect(folder: pathlib.Path, model, weights, adapters) -> None:
    """Save the logits that we compute."""
    import jax

    positions = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)
    segments = np.ones_like(TOKENS)

    def logits(weights, adapters):
        given = dict(positions_BT=positions, segments_BT=segments, adapters=adapters)
        x = model.hidden(weights, TOKENS, **given)
        return model.logits(weights, x, adapters=adapters)

    np.save(folder / "expected.npy", np.asarray(jax.jit(logits)(weights, adapters)))


def check(out: pathlib.Path) -> int:
    """Open every folder and return how many differ."""
    import peft
    import torch
    import transformers

    print(f"torch {torch.__version__}, transformers {transformers.__version__}, "
          f"peft {peft.__version__}")  # fmt: skip
    read = lambda folder: transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    wrong = 0
    for path in sorted(out.glob("*/expected.npy")):
        folder = path.parent
        try:
            if (folder / "adapter_config.json").is_file():
                model = peft.PeftModel.from_pretrained(read(out / "base"), folder)
            else:
                model = read(folder)
            with torch.no_grad():
                logits = model.eval()(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
            apart = float(np.abs(logits - np.load(path)).max())
            told = f"{apart:.1e}"
        except Exception as error:
            apart, told = np.inf, f"{type(error).__name__}: {error}".splitlines()[0]
        wrong += not apart < TOLERANCE
        print(f"{folder.name:24} {'ok ' if apart < TOLERANCE else 'BAD'} {told}")
    return wrong


def main() -> int:
    """Run the stage that the flags name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stage = parser.add_mutually_exclusive_group(required=True)
    stage.add_argument("--make", type=pathlib.Path)
    stage.add_argument("--check", type=pathlib.Path)
    flags = parser.parse_args()
    if flags.make:
        make(flags.make)
        return 0
    return min(check(flags.check), 1)


if __name__ == "__main__":
    sys.exit(main())
