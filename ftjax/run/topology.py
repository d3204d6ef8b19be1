"""Names of accelerators that are not here: how many devices, what each holds, how they are joined.

    topology = read("v5e-16")        # 16 chips, 4x4; "2xv5e-16": two slices; "v5p:4x4x4": by shape
    topology.devices()               # for a mesh; nothing can be put on them

v5e and v6e count chips; v4, v5p and tpu7x two for every chip, as their product names do. `h100-16`
are 16 GPUs, eight to a host; a shape is hosts x GPUs. Figures are the vendor's data sheets', per
JAX device (half a chip of tpu7x); of GPUs the memory that their driver reports.
"""

import dataclasses
import math
import os
import re
from typing import NamedTuple

from ftjax.core import config as conf

# Slices that can be rented: 2-D torus of v5e and v6e, 3-D of the others.
FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
CUBES = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8",
    512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip
# Hosts of eight GPUs, or a part of one.
HOSTS = {n: f"1x{n}" for n in (1, 2, 4, 8)} | {8 * n: f"{n}x8" for n in (2, 4, 8, 16, 32)}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of accelerator, per device; bandwidths in bytes a second.

    ici: of all links of a device together, in one direction. dcn: of its share of a host's network.
    gpu: what its driver calls it; "" for a TPU.
    """

    flops: float
    hbm_bytes: float
    hbm: float
    ici: float
    dcn: float = 6.25e9  # 200 Gbit/s a host of four chips
    devices: int = 1  # a chip
    counted: int = 1  # in names, for every chip
    shapes: dict = dataclasses.field(default_factory=lambda: FLAT)
    config: str = "default"
    gpu: str = ""


GIB = 2**30
# Of libtpu, which else asks the cloud what this machine is, and locks it against other processes.
ALONE = {
    "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1",
}  # fmt: skip
CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1228e9, 300e9, counted=2, shapes=CUBES, config="megacore"),
    # 15.75 GiB are what the compiler gives a program.
    "v5e": Chip(197e12, 15.75 * GIB, 819e9, 200e9),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, counted=2, shapes=CUBES),
    "v6e": Chip(918e12, 32 * GIB, 1640e9, 448e9),
    "tpu7x": Chip(1153.5e12, 96 * GIB, 3690e9, 600e9, devices=2, counted=2, shapes=CUBES),
    # Links: NVLink in a host, 400 Gbit/s a GPU between hosts.
    "h100": Chip(989e12, 81559 * 2**20, 3352e9, 450e9, 50e9, shapes=HOSTS,
                 gpu="NVIDIA H100 80GB HBM3"),
    "h200": Chip(989e12, 143771 * 2**20, 4800e9, 450e9, 50e9, shapes=HOSTS, gpu="NVIDIA H200"),
}  # fmt: skip
# What XLA asks of a GPU that is not here: limits of compute capability 9.0, which Hopper's share.
HOPPER = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98  l2_cache_size: 52428800
  memory_bandwidth: {bandwidth:.0f}  device_memory_size: {memory:.0f}
}}
platform_name: "CUDA"
runtime_version {{ major: 12 minor: 8 }}
dnn_version_info {{ major: 9 minor: 7 }}
device_description_str: "{name}"
"""


class Needed(NamedTuple):
    """What compiles for a platform."""

    platform: str  # as JAX's compilers have it
    package: str
    extra: str


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for; chip None: CPUs of this machine, whose limits nobody knows."""

    name: str
    kind: str
    count: int  # of devices
    shape: str = ""
    slices: int = 1

    @property
    def chip(self) -> Chip | None:
        """Return the figures of a device."""
        return CHIPS.get(self.kind)

    @property
    def platform(self) -> str:
        """Return the name of the platform, as JAX has it."""
        if self.chip is None:
            return "cpu"
        return "gpu" if self.chip.gpu else "tpu"

    def devices(self) -> list:
        """Return devices for a mesh.

        Raises:
          ValueError: there are fewer CPU devices here, or the compiler is not installed.
        """
        import jax

        if self.chip is None:
            found = jax.devices("cpu")
            if len(found) < self.count:
                raise ValueError(
                    f"--topology: got {self.name!r} with {len(found)} CPU devices here; expected "
                    f"as many; set JAX_NUM_CPU_DEVICES={self.count}"
                )
            return found[: self.count]
        from jax.experimental import topologies

        options, needed = self._gpus() if self.chip.gpu else self._tpus()
        try:
            return list(topologies.get_topology_desc(platform=needed.platform, **options).devices)
        except (jax.errors.JaxRuntimeError, RuntimeError, ImportError) as error:
            raise ValueError(
                f"--topology: got {self.name!r} and no compiler for it here "
                f"({' '.join(str(error).split())[:160]}); expected {needed.package}; "
                f"pip install 'ftjax[{needed.extra}]'"
            ) from None

    def _tpus(self) -> tuple[dict, "Needed"]:
        sizes = _sizes(self.shape)
        os.environ |= ALONE
        return dict(
            topology_name=f"{self.kind}:{self.shape}", chip_config_name=self.chip.config,
            num_slices=self.slices, chips_per_host_bounds=_host(sizes),
            wrap=_wrap(self.kind, sizes),
        ), Needed("tpu", "libtpu", "tpu")  # fmt: skip

    def _gpus(self) -> tuple[dict, "Needed"]:
        hosts, gpus = _sizes(self.shape)
        chip = self.chip
        target = HOPPER.format(name=chip.gpu, bandwidth=chip.hbm, memory=chip.hbm_bytes)
        # NVLink ends at the host: each is a slice.
        return dict(
            topology=f"{hosts * self.slices}x1x{gpus}", target_config=target
        ), Needed("cuda", "JAX's CUDA plugin", "cuda")  # fmt: skip


def read(name: str) -> Topology:
    """Read the name of a topology.

    Raises:
      ValueError: there is none of this name; with the nearest.
    """
    if match := re.fullmatch(r"cpu:([1-9]\d*)", name):
        return Topology(name, "cpu", int(match[1]))
    match = re.fullmatch(r"(?:([1-9]\d*)x)?(\w+?)(?:-(\d+)|:([\dx]+))", name)
    kind = match[2] if match else ""
    chip, shape = CHIPS.get(kind), match[4] if match else None
    if chip is not None and match[3]:
        shape = chip.shapes.get(int(match[3]) // chip.counted)
        shape = None if int(match[3]) % chip.counted else shape
    if chip is None or shape not in chip.shapes.values():
        near = conf.nearest(name, names())
        raise ValueError(
            f"--topology: got {name!r}; expected one of {_listed()}, a shape such as v5e:4x4, "
            f"several slices such as 2xv5e-16, or cpu:8; {near}"
        )
    slices = int(match[1] or 1)
    return Topology(name, kind, math.prod(_sizes(shape)) * chip.devices * slices, shape, slices)


def names() -> list[str]:
    """List the names of single slices."""
    return [f"{k}-{count * c.counted}" for k, c in CHIPS.items() for count in c.shapes]


def _listed() -> str:
    sizes = lambda chip: "|".join(str(count * chip.counted) for count in chip.shapes)
    return ", ".join(f"{kind}-{sizes(chip)}" for kind, chip in CHIPS.items())


def _sizes(shape: str) -> tuple[int, ...]:
    return tuple(map(int, shape.split("x")))


def _host(sizes: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the chips of a host: four, but of 1x1 and 2x4, which are one host."""
    return (*sizes, 1) if sizes in ((1, 1), (2, 4)) else (2, 2, 1)


def _wrap(kind: str, sizes: tuple[int, ...]) -> tuple[bool, bool, bool]:
    """Return along which axes the links close to a ring."""
    if len(sizes) == 2:
        return (*(size == 16 for size in sizes), False)
    return (min(sizes) >= 4,) * 3
