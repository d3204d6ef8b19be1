"""What the devices can do and what they hold: peak FLOP/s for MFU, and peak memory.

Peaks are dense bfloat16 figures of the vendors' data sheets, per JAX device. A chip of TPU v2, v3
and 7x shows as two devices, so the table holds half of the chip.
"""

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
