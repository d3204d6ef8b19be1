"""What the devices can do and what they hold: peak FLOP/s for MFU, memory, and its reuse.

Peaks are dense bfloat16 figures of the vendors' data sheets, per JAX device. A chip of TPU v2, v3
and 7x shows as two devices, so the table holds half of the chip.
"""

import ctypes
import platform
import resource
import sys

import jax

# Longest match first: "TPU v5 lite" must be tried before "TPU v5".
PEAK_FLOPS = (
    ("TPU v2", 22.5e12),
    ("TPU v3", 61.5e12),
    ("TPU v4 lite", 138e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
    ("TPU7x", 1153.5e12),
    ("A100", 312e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
)

# Of glibc's malloc.h: blocks outside the heap, and free bytes at the heap's end before it shrinks.
MMAP_MAX, TRIM_THRESHOLD = -4, -1
KEPT_BYTES = 2**31 - 1


def reuse_memory() -> None:
    """Let a step on a CPU reuse the memory of the step before; call it before arrays are made.

    The temporary memory of a step is one block, which glibc returns to the system after the step,
    and every page is zeroed again in the next: a tenth of the time of a small step. Here it stays
    in the heap instead (up to 2 GiB). Only the main thread's heap can hold it, so steps run on
    that thread. Does nothing on other devices and with other C libraries.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def peak_flops(kind: str | None = None) -> float | None:
    """Return the dense bfloat16 FLOP/s of a device kind, or None; by default of the kind here."""
    kind = jax.devices()[0].device_kind if kind is None else kind
    return next((peak for name, peak in PEAK_FLOPS if name in kind), None)


def peak_memory_bytes() -> int:
    """Return the most bytes that any local device has held; on CPU, that this process has held."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = max(entry.get("peak_bytes_in_use", 0) for entry in stats)
    return used or _peak_resident_bytes()


def _peak_resident_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
