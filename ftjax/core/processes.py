"""The processes of a run, one a host: how they join, and how they agree.

    start()                                  before anything else of jax is used
    values = on_first(lambda: score(texts))  computed by process 0, the same everywhere
    if any_process(fault): ...               all take the same branch

What only one process may do (ask a server, read a clock) goes through `on_first`; whether to enter
what needs all of them (a barrier, a collective) is decided by `any_process`.
"""

import os
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

SCHEDULER = "xla_cpu_enable_concurrency_optimized_scheduler"
PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
BY_HAND = "--coordinator host:port --processes N --index i, or --processes 1 to run alone"


def start(*, coordinator: str = "", processes: int | None = None, index: int | None = None) -> None:
    """Join the processes of a run, before anything else of jax is used.

    With a coordinator (`host:port`) the processes are counted by hand. Without one they are found
    where a launcher names them (SLURM's srun, TPU pods, Open MPI); one process is enough where none
    does, or where `processes` is 1.

    Raises:
      ValueError: a launcher or the arguments tell of several processes, but not how to join them.
    """
    by_hand = coordinator or processes is not None or index is not None
    launcher = None if by_hand else launcher_of(os.environ)
    _steady_collectives(several=bool(coordinator or launcher))
    if coordinator:
        _join_by_hand(coordinator, 1 if processes is None else processes, index)
    elif index is not None or processes not in (None, 1):
        raise ValueError(
            f"--coordinator: got none with --processes {processes} and --index {index}; expected "
            f"{BY_HAND}"
        )
    elif launcher:
        _initialize(launcher, cluster_detection_method=launcher if launcher != "jax" else None)


def _join_by_hand(coordinator: str, processes: int, index: int | None) -> None:
    index = 0 if index is None and processes == 1 else index
    if index is None or not 0 <= index < processes:
        raise ValueError(
            f"--index: got {index} of {processes} processes; expected 0 to {processes - 1}, each "
            f"in one process; pass {BY_HAND}"
        )
    if not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"--coordinator: got {coordinator!r}; expected host:port; pass {BY_HAND}")
    _initialize(coordinator, coordinator, num_processes=processes, process_id=index)


def _initialize(name: str, *args, **options) -> None:
    try:
        jax.distributed.initialize(*args, **options)
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"processes: got no connection by {name!r} ({text}); expected all processes of the run "
            f"to join; start the same command on each, or pass {BY_HAND}"
        ) from None


def launcher_of(environ: Mapping[str, str]) -> str | None:
    """Return how jax is to find the processes of a launcher; None where there is but one process.

    Half of a launcher, such as a batch script of SLURM that calls Python without srun, would have
    one process wait for others that nobody has started.

    Raises:
      ValueError: there are several processes, or there should be, and no way to join them.
    """
    count = lambda name: int(environ.get(name, "") or 1)
    if count("OMPI_COMM_WORLD_SIZE") > 1:
        if "OMPI_MCA_orte_hnp_uri" in environ:  # where Open MPI says its first host; not from 5 on
            return "ompi"
        raise _half("OMPI_COMM_WORLD_SIZE", environ, "Open MPI that names its coordinator")
    if "SLURM_JOB_ID" in environ:
        tasks, nodes = count("SLURM_NTASKS"), count("SLURM_JOB_NUM_NODES")
        step = count("SLURM_STEP_NUM_TASKS") if "SLURM_STEP_NODELIST" in environ else 0
        if step > 1:
            return "slurm"
        if tasks > 1 or nodes > 1:
            name = "SLURM_NTASKS" if tasks > 1 else "SLURM_JOB_NUM_NODES"
            raise _half(name, environ, "a step of as many tasks: start the command with srun")
        return None
    if count("PMI_SIZE") > 1:
        raise _half("PMI_SIZE", environ, "MPI that names its coordinator")
    # One host is also what a rehearsal tells libtpu, and has no others to wait for.
    is_pod = "," in environ.get("TPU_WORKER_HOSTNAMES", "")
    return "jax" if is_pod or "JAX_COORDINATOR_ADDRESS" in environ else None


def _half(name: str, environ: Mapping[str, str], wanted: str) -> ValueError:
    return ValueError(f"{name}: got {environ[name]}; expected {wanted}; or pass {BY_HAND}")


def _steady_collectives(*, several: bool) -> None:
    """Let devices that are CPUs, of one or `several` processes, run collectives in one order.

    The default scheduler may start independent collectives in another order on each device; with
    fewer cores than devices they then wait for each other for ever. Nor may devices that wait hold
    the last threads that another one needs: NPROC is how many XLA makes, by default one a device.
    And on a busy machine a device may come late, for which XLA ends the process after 40 seconds.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    many = os.environ.get("JAX_NUM_CPU_DEVICES", "1") != "1" or "host_platform_device" in flags
    joined = several and os.environ.get("JAX_PLATFORMS") == "cpu"
    if joined:
        # What does not depend on each other XLA starts as its threads come free, collectives too,
        # and gloo then takes the bytes of one for another's. With a thread a device the order is
        # the program's, the same in every process; so is that of programs when none is in flight.
        os.environ["NPROC"] = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        # A program that comes from the disk has lost the order of its collectives.
        jax.config.update("jax_enable_compilation_cache", False)
    if (many or joined) and SCHEDULER not in flags:
        os.environ.setdefault("NPROC", "32")
        os.environ["XLA_FLAGS"] = f"{flags} --{SCHEDULER}=false --{PATIENCE}=600".strip()


# -- agreement -------------------------------------------------------------------------------------


def is_first() -> bool:
    """Return whether this process writes what a run writes once."""
    return jax.process_index() == 0


def any_process(here: bool) -> bool:
    """Return whether `here` holds in one process at least; every process must ask."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.int32(here)).any())


def on_first(make: Callable[[], Any]) -> Any:
    """Return what `make` returns in process 0 to every process; every process must ask.

    Raises:
      RuntimeError: in the other processes, when `make` raised in process 0, with its message; so
        none waits for what will not come.
    """
    if jax.process_count() == 1:
        return make()
    outcome = None
    try:
        if is_first():
            outcome = True, make()
    finally:
        if is_first() and outcome is None:
            outcome = False, str(sys.exc_info()[1])
        done, value = _from_first(outcome)
    if not done:
        raise RuntimeError(f"process 0: {value}")
    return value


def _from_first(value: Any) -> Any:
    """Broadcast a value that pickle knows, from process 0: first its size, then its bytes."""
    data = np.frombuffer(pickle.dumps(value) if is_first() else b"", np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    data = data if is_first() else np.zeros(size, np.uint8)
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes())
