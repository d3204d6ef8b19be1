r"""Compile the training step of a config for accelerators that are not here: what it takes.

    python -m experiments.rehearse --config configs/sft_llama3_8b.py --topology v5e-16
    JAX_NUM_CPU_DEVICES=8 python -m experiments.rehearse --config configs/quickstart.py
        --topology cpu:8 --json cpu.json

Needs neither weights (a config.json, or the name of a preset) nor data, and for TPUs libtpu
(`pip install 'ftjax[tpu]'`) but no TPU. Prints memory by kind, FLOPs, what the devices send, a
roofline and the largest results. Where it does not fit, changes that need less are compiled too,
and ranked. `--search 8` compiles up to eight programs of other meshes and microbatches. Exit code
2: it does not fit.
"""

import os
import pathlib
import sys
from typing import NamedTuple

from absl import app, flags

from experiments import cli
from ftjax.core import config_flag
from ftjax.run import config as settings_lib
from ftjax.run import keys
from ftjax.run import topology as topologies


class Flags(NamedTuple):
    """The flags of this command."""

    config: config_flag.Flag
    topology: flags.FlagHolder
    json: flags.FlagHolder
    hbm_gib: flags.FlagHolder
    suggest: flags.FlagHolder
    search: flags.FlagHolder


def define() -> Flags:
    """Define the flags; not at import, since one process may import several commands."""
    holder = config_flag.define()
    config_flag.define_required(holder)
    return Flags(
        holder,
        flags.DEFINE_string("topology", None, "such as v5e-16, 2xv5e-16, cpu:8", required=True),
        flags.DEFINE_string("json", "", "file to write all of it to"),
        flags.DEFINE_float("hbm_gib", None, "memory of a device, in place of the topology's"),
        flags.DEFINE_integer(
            "suggest", 3, "changes to compile where it does not fit", lower_bound=0
        ),
        flags.DEFINE_integer(
            "search", 0, "programs of other meshes and microbatches to compile", lower_bound=0
        ),
    )


def main(argv: list[str], given: Flags) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    topology = topologies.read(given.topology.value)
    settings = settings_lib.read(keys.read(given.config))
    prepare(topology)
    cli.start(compile_cache="")  # its seconds are measured
    from ftjax.run import rehearse, suggestions  # slow to import

    limit = given.hbm_gib.value and given.hbm_gib.value * topologies.GIB
    found = rehearse.rehearse(settings, topology, hbm_bytes=limit)
    sys.stdout.write(rehearse.text(found) + "\n")
    sys.stdout.flush()
    better = []
    if not found["fits"]:
        options = dict(limit=given.suggest.value, hbm_bytes=limit)
        better += suggestions.suggest(settings, topology, **options)
    if given.search.value:
        options = dict(limit=given.search.value, hbm_bytes=limit)
        better += suggestions.search(settings, topology, **options)
    for own in better:
        sys.stdout.write(suggestions.summary(own) + "\n")
    if given.json.value:
        rehearse.write(pathlib.Path(given.json.value), found, better)
    if not found["fits"]:
        raise RuntimeError(
            f"rehearse: the step does not fit {topology.name}; expected at most its memory; "
            f"{'see the changes above' if better else 'no change was tried'}"
        )


def prepare(topology: topologies.Topology) -> None:
    """Set what jax reads when it begins: no accelerator is taken, and there are CPUs enough."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if topology.chip is None:
        os.environ["JAX_NUM_CPU_DEVICES"] = str(topology.count)
    else:
        os.environ |= topologies.ALONE  # jax asks the cloud when it is imported


if __name__ == "__main__":
    cli.run(main, define())
