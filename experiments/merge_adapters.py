r"""Combine LoRA adapters of one base into one: PEFT directories in, a PEFT directory out.

    python -m experiments.merge_adapters --adapters a=0.7 --adapters b=0.3 --kind cat --out both
    python -m experiments.merge_adapters --adapters a=1 --adapters b=-0.5 --kind ties --out c

Each of --adapters is a directory and its weight. The kinds are those of `adapters.multi.merging`:
cat (exact, ranks add), svd (cut to --rank), linear, ties, dare_linear, dare_ties, magnitude_prune,
and the last four with _svd. --base is a Hugging Face directory, where the adapters do not name it.
"""

import pathlib

from absl import app, flags

from experiments import cli

ADAPTERS = flags.DEFINE_multi_string("adapters", None, "DIR=WEIGHT; repeated", required=True)
OUT = flags.DEFINE_string("out", None, "directory to write, new or empty", required=True)
KIND = flags.DEFINE_string("kind", "cat", "how they are combined")
RANK = flags.DEFINE_integer("rank", None, "of the result, with svd", lower_bound=1)
DENSITY = flags.DEFINE_float("density", None, "part of the entries that is kept, with pruning")
SIGN = flags.DEFINE_string("sign", "total", "of ties: total or frequency")
SEED = flags.DEFINE_integer("seed", 0, "of DARE's draw")
BASE = flags.DEFINE_string("base", "", "directory of the base; that of the first adapter's run")


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    cli.start()
    import jax  # slow to import

    from ftjax.adapters.multi import merging
    from ftjax.adapters.peft import io as peft
    from ftjax.core import files, processes
    from ftjax.models.hf import checkpoint
    from ftjax.run import bases

    given = [weighted(text) for text in ADAPTERS.value]
    named = files.read_json(given[0][0] / peft.CONFIG).get("base_model_name_or_path")
    base = bases.locate(BASE.value or base_of(given[0][0]) or named or "")
    family, config = checkpoint.config_of(base)
    own = dict(linears=family.make(config).linears, names=family.NAMES)
    found = [peft.load(directory, **own) for directory, _ in given]
    made = merging.adapters(
        found, [weight for _, weight in given], kind=KIND.value, linears=own["linears"],
        rank=RANK.value, density=DENSITY.value, sign=SIGN.value, key=jax.random.key(SEED.value),
    )  # fmt: skip
    if processes.is_first():
        peft.save(OUT.value, made, base_model=BASE.value or named, **own)
        print(f"{len(found)} adapters, {KIND.value}: {OUT.value}")


def base_of(directory: pathlib.Path) -> str | None:
    """Return the base of the run that an adapter was exported by; None where it lies elsewhere.

    The name in an adapter's own file is for other machines: a hub's id, or a folder's name.
    """
    from ftjax.core import files
    from ftjax.run.artifacts import Artifacts

    config = Artifacts(directory.parent).config
    return files.read_json(config).get("model", {}).get("base") if config.is_file() else None


def weighted(text: str) -> tuple[pathlib.Path, float]:
    """Read DIR=WEIGHT.

    Raises:
      ValueError: it is not of this form.
    """
    directory, _, weight = text.rpartition("=")
    try:
        return pathlib.Path(directory), float(weight)
    except ValueError:
        raise ValueError(f"--adapters: got {text!r}; expected DIR=WEIGHT, such as a=0.7") from None


if __name__ == "__main__":
    cli.run(main)
