"""Quick compiling, for tests where it is nearly all of the time and its quality does not matter.

with quick.compiles(): ...            the programs of this process
os.environ | quick.variables()        those of a process that a test starts: as here
quick.share_contexts()                for good: the same programs, lowered in less time
"""

import contextlib
import functools
import os
import threading

import jax
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir

FEW = "jax_disable_most_optimizations"
# XLA's emitters of fused loops, and an LLVM module a core, cost two thirds of what FEW leaves.
# Small products have nothing to share between threads, and others have seen XLA hang there now and
# then (PyAutoFit#1528): where one of eight devices did, the rest would wait for it until XLA ends
# the process, after `processes.PATIENCE`.
OPTIONS = {
    "xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_multi_thread_eigen": False,
}  # fmt: skip


@contextlib.contextmanager
def compiles():
    """Compile with few optimisations."""
    # JAX takes options of the compiler for one `jit`, or from a variable that a process reads
    # once; for all programs of some files there is only this function of its own.
    whole, quick = compiler.get_compile_options, options()

    def with_options(*args, env_options_overrides=None, **kwargs):
        asked = quick | (env_options_overrides or {})
        return whole(*args, env_options_overrides=asked, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", with_options)
        jax.config.update(FEW, True)
        yield
        jax.config.update(FEW, False)


@functools.cache
def options():
    """Return OPTIONS where this release of XLA has them."""
    try:
        jax.jit(lambda x: x, compiler_options=OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return OPTIONS


def variables():
    """Return the variables with which another process compiles as this one does now."""
    if not jax.config.read(FEW):
        return {}
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in options().items())
    return {FEW.upper(): "1", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}


# What is lowered stays in its context: a type once, but a place in the source for each program.
PROGRAMS_A_CONTEXT = 200


def share_contexts():
    """Lower many programs in one MLIR context.

    JAX makes one a program, which loads every dialect: a quarter of what a program of one operation
    takes from the call to its result. Nothing of a context reaches the program.
    """
    make, kept = mlir.make_ir_context, []

    def shared():
        # A program that is lowered in the middle of another would stand in its place, and one that
        # a thread compiles may load dialects while the next is lowered here.
        apart = threading.current_thread() is not threading.main_thread()
        if apart or mlir.ir.Context.current is not None:
            return make()
        if not kept or len(kept) == PROGRAMS_A_CONTEXT:
            kept[:] = [make()]
        else:
            kept.append(kept[0])
        return kept[0]

    mlir.make_ir_context = shared
