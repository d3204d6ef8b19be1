"""The laws compile many small programs once each: compile time is all of their time."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
