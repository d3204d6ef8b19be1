"""Forward passes and gradients compile once per reference file; running them takes no time."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compiles():
    """Compile with few optimisations; the training curves keep those that users have."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
