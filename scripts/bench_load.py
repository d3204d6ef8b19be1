r"""Time the loading of a model directory against plainly reading its bytes.

    python -m scripts.bench_load                 # a random Llama of 1 GB, in a temporary directory
    python -m scripts.bench_load --gb 4 --directory models/mine

Both are done several times in turn with the files in the page cache, each in a process of its own;
the fastest of each counts, and the least CPU time, which company on the machine lengthens less.
`load` ends when every array is on its device in our layout; `shapes` of it is the tracing of the
model's shapes, which a run has done before it loads. `read` is `safetensors.numpy.load_file` over
all files, which keeps torch's layout. Prints seconds, their ratios, and the host's peak memory
beyond the arrays, in units of the largest parameter.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

REPEATS = 5


def write_model(directory: pathlib.Path, *, gb: float, max_shard_gb: float = 0.5) -> None:
    """Write a random Llama in bfloat16 of about `gb` 10^9 bytes; its width grows with `gb`."""
    import jax.numpy as jnp

    from ftjax.core import tree
    from ftjax.models.hf import checkpoint, presets

    config = dict(presets.PRESETS["llama3.2-1b"], vocab_size=32000, num_hidden_layers=1)
    family = checkpoint.family_of("llama")
    per_layer = _bytes(family, config, layers=2) - _bytes(family, config, layers=1)
    rest = _bytes(family, config, layers=1) - per_layer
    layers = max(1, round((gb * 1e9 - rest) / per_layer))
    config = family.from_hf(config | {"num_hidden_layers": layers})
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 2**15, 2**20).astype(np.uint16).view(jnp.bfloat16)
    fill = lambda leaf: np.resize(noise, leaf.shape)
    params = tree.map_with_paths(lambda _, leaf: fill(leaf), family.make(config).abstract)
    checkpoint.save(directory, params, family=family, config=config, max_shard_gb=max_shard_gb)


def _bytes(family, config: dict, *, layers: int) -> int:
    from ftjax.core import tree

    model = family.make(family.from_hf(config | {"num_hidden_layers": layers}))
    return 2 * tree.size_of(model.abstract)


def load(directory: pathlib.Path) -> dict:
    """Load the model with `hf.load`; imports and the start of the backend are not counted."""
    import jax

    from ftjax.core import tree
    from ftjax.models.hf import checkpoint

    family, config = checkpoint.config_of(directory)
    model = family.make(config)
    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    before, start, used = _peak(), time.perf_counter(), time.process_time()
    checkpoint.stored(model, family.NAMES)
    shapes = time.perf_counter() - start
    params = jax.block_until_ready(checkpoint.load(directory, model, names=family.NAMES))
    seconds, used = time.perf_counter() - start, time.process_time() - used
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    beyond = _peak() - before - tree.bytes_of(params)
    size = tree.bytes_of(params)
    own = {"seconds": seconds, "cpu": used, "shapes": shapes, "rest": seconds - shapes}
    return own | {"bytes": size, "beyond": beyond / largest}


def read(directory: pathlib.Path) -> dict:
    """Read every tensor with safetensors alone."""
    import ml_dtypes  # noqa: F401 (numpy does not know bfloat16 without it)
    from safetensors.numpy import load_file

    start, used = time.perf_counter(), time.process_time()
    tensors = [load_file(path) for path in sorted(directory.glob("*.safetensors"))]
    seconds, used = time.perf_counter() - start, time.process_time() - used
    return {"seconds": seconds, "cpu": used, "tensors": sum(map(len, tensors))}


def _peak() -> int:
    """The most memory that this process has held; `ru_maxrss` would begin with its parent's."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def main() -> None:
    """Write the model if there is none, then time both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--directory", type=pathlib.Path, default=None)
    parser.add_argument("--child", choices=("load", "read"), default=None)
    options = parser.parse_args()
    if options.child:
        print(json.dumps({"load": load, "read": read}[options.child](options.directory)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or pathlib.Path(temporary) / "model"
        if not directory.exists():
            write_model(directory, gb=options.gb)
        report(directory)


def report(directory: pathlib.Path) -> None:
    """Run both in turn, and print the fastest of each."""
    found = {"read": [], "load": []}
    for _ in range(REPEATS):
        for kind, results in found.items():
            command = [sys.executable, "-m", "scripts.bench_load", "--child", kind]
            command += ["--directory", str(directory)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    size = found["load"][0]["bytes"]
    least = lambda kind, what: min(result[what] for result in found[kind])
    for kind in found:
        wall, cpu = least(kind, "seconds"), least(kind, "cpu")
        print(f"{kind:5} {wall:6.2f} s  {size / wall / 1e9:5.2f} GB/s  {cpu:6.2f} s of CPU")
    known = least("load", "rest") / least("read", "seconds")
    print(f"shapes {least('load', 'shapes'):5.2f} s; ratio of time without them {known:.2f}")
    for what, label in (("seconds", "time"), ("cpu", "CPU time")):
        print(f"ratio of {label} {least('load', what) / least('read', what):.2f}")
    beyond = max(r["beyond"] for r in found["load"])
    print(f"peak beyond the arrays: {beyond:.2f} x the largest parameter")


if __name__ == "__main__":
    main()
