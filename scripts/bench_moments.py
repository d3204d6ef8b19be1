r"""Loss and bytes with an optimizer's moments in float32, bfloat16 and 8 bits, over seeds.

    FTJAX_DATA=DIR python -m scripts.bench_moments --steps 120 --seeds 3

Medical answers (`configs/sft_medical.py`) are learned by the embedded base, in full and with LoRA,
in batches of 8 x 128. Runs of one seed see the same batches, and differ in `optim.state_dtype`
alone. Printed as JSON: the held-out nll of each, the means, how far the mean is from that of
float32, and the noise floor of such a difference (`evals/lib/noise.py`), from the seeds of float32.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import tempfile

from configs import common, sft_medical
from experiments import train
from ftjax.core import files, tree
from ftjax.evals.lib import noise
from ftjax.optim import moments
from ftjax.run import config as settings
from ftjax.run import plan
from ftjax.run.shared import Shared

SCORE = "eval/medical/nll"


def chosen(*, full: bool, dtype: str, seed: int, steps: int) -> settings.Settings:
    """Return the settings of a run."""
    argument = f"data={common.data_folder()},steps={steps}"
    c = sft_medical.get_config(argument + (",full" if full else ""))
    c.batch_size, c.data.max_tokens, c.log_every_steps = 8, 128, 20
    c.optim.state_dtype, c.seed.data, c.samples.prompts = dtype, seed, ()
    c.evals = {"medical": c.evals.medical}
    return settings.read(c)


def measure(folder: pathlib.Path, *, full: bool, steps: int, seeds: int) -> dict:
    """Train a run for every type and seed; returns the numbers by type."""
    shared, found, size = Shared(base="tiny"), {}, {}
    for dtype in moments.DTYPES:
        own = found.setdefault(dtype, [])
        for seed in range(seeds):
            run = chosen(full=full, dtype=dtype, seed=seed, steps=steps)
            size[dtype] = tree.bytes_of(plan.plan(run, shared=shared).state.opt_state)
            workdir = folder / f"{'full' if full else 'lora'}_{dtype}_{seed}"
            with contextlib.redirect_stdout(sys.stderr):  # JSON alone comes out
                train.train(run, workdir, shared=shared)
            own.append(files.read_json(workdir / "summary.json")["metrics"][SCORE])
    floor = noise.floor(found["float32"], runs=seeds).value
    mean = {dtype: statistics.mean(own) for dtype, own in found.items()}
    return {
        dtype: {
            "bytes": size[dtype], "nll": own, "mean": mean[dtype],
            "less_float32": mean[dtype] - mean["float32"], "noise_floor": floor,
        }
        for dtype, own in found.items()
    }  # fmt: skip


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ways = {"full": True, "lora": False}
        found = {way: measure(folder, full=full, **given) for way, full in ways.items()}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
