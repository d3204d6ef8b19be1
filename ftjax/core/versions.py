"""What ran: versions of Python and of the packages whose change can change a result."""

import importlib.metadata
import platform

PACKAGES = ("ftjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Return {"python": "3.11.9", "jax": ..., ...}, less the packages that are not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
