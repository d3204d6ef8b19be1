"""How the processes of a run find each other, and what all of them learn of the first one."""

import os

import jax
import pytest

from ftjax.core import processes

SLURM = dict(SLURM_JOB_ID="7", SLURM_NTASKS="2", SLURM_JOB_NUM_NODES="2")
STEP = dict(SLURM_STEP_NODELIST="a[1-2]", SLURM_STEP_NUM_TASKS="2")
OMPI = dict(OMPI_COMM_WORLD_SIZE="4")


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        ({}, None),
        (SLURM | STEP, "slurm"),
        (dict(SLURM_JOB_ID="7", SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1"), None),
        (dict(SLURM_JOB_ID="7"), None),  # a shell of an allocation
        (OMPI | dict(OMPI_MCA_orte_hnp_uri="1.0;tcp://10.0.0.1:4"), "ompi"),
        (dict(OMPI_COMM_WORLD_SIZE="1"), None),
        (dict(PMI_SIZE="1"), None),
        (SLURM | STEP | dict(PMI_SIZE="2"), "slurm"),  # srun sets it too
        (dict(TPU_WORKER_HOSTNAMES="a,b"), "jax"),
        (dict(TPU_WORKER_HOSTNAMES="localhost"), None),
        (dict(JAX_COORDINATOR_ADDRESS="a:1"), "jax"),
    ],
)
def test_launchers_are_known_by_their_variables(environ, launcher):
    assert processes.launcher_of(environ) == launcher


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (SLURM, r"SLURM_NTASKS: got 2; .*start the command with srun; or pass --coordinator"),
        (SLURM | dict(SLURM_NTASKS=""), r"SLURM_JOB_NUM_NODES: got 2; .*with srun"),
        (  # a step of one task inside an allocation for more
            SLURM | STEP | dict(SLURM_STEP_NUM_TASKS="1"), r"SLURM_NTASKS: got 2"),
        (OMPI, r"OMPI_COMM_WORLD_SIZE: got 4; .*names its coordinator; or pass --coordinator"),
        (dict(PMI_SIZE="3"), r"PMI_SIZE: got 3; .*--processes 1 to run alone"),
    ],
)  # fmt: skip
def test_half_a_launcher_is_an_error_and_no_process_waits(environ, message):
    with pytest.raises(ValueError, match=message):
        processes.launcher_of(environ)


@pytest.fixture
def nobody_joins(monkeypatch):
    """Note what jax would be asked for; return the list of calls."""
    calls = []
    note = lambda *args, **options: calls.append((args, options))
    monkeypatch.setattr(jax.distributed, "initialize", note)
    return calls


def test_one_process_is_one_whatever_a_launcher_says(monkeypatch, nobody_joins):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    processes.start(processes=1)
    assert nobody_joins == []
    with pytest.raises(ValueError, match="SLURM_NTASKS"):
        processes.start()


def test_processes_are_joined_as_the_launcher_or_the_flags_say(monkeypatch, nobody_joins):
    for name, value in (SLURM | STEP).items():
        monkeypatch.setenv(name, value)
    processes.start()
    processes.start(coordinator="a:1", processes=2, index=1)
    assert nobody_joins == [
        ((), dict(cluster_detection_method="slurm")),
        (("a:1",), dict(num_processes=2, process_id=1)),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(processes=2), "--coordinator: got none with --processes 2"),
        (dict(index=0), "--coordinator: got none with"),
        (dict(coordinator="a:1", processes=2), "--index: got None of 2 processes; expected 0 to 1"),
        (dict(coordinator="a:1", processes=2, index=2), "--index: got 2 of 2"),
        (dict(coordinator="a", processes=2, index=0), "--coordinator: got 'a'; expected host:port"),
    ],
)
def test_flags_that_do_not_go_together(options, message, nobody_joins):
    with pytest.raises(ValueError, match=message):
        processes.start(**options)
    assert nobody_joins == []


def test_a_connection_that_fails_is_one_line(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("DEADLINE_EXCEEDED:\n  no answer")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError, match=r"no connection by 'a:1' .*no answer") as caught:
        processes.start(coordinator="a:1", processes=2, index=0)
    assert "\n" not in str(caught.value)


def fault():
    raise OSError("the server is away")


@pytest.mark.parametrize(("index", "kind"), [(0, OSError), (1, RuntimeError)])
def test_a_fault_of_the_first_process_is_raised_in_all(index, kind, monkeypatch):
    sent = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: index)

    def from_first(value):
        sent.append(value)
        return False, "the server is away"

    monkeypatch.setattr(processes, "_from_first", from_first)
    with pytest.raises(kind, match="the server is away"):
        processes.on_first(fault)
    # The first one sends its fault before it raises, or the others would wait for ever.
    assert sent == [(False, "the server is away") if index == 0 else None]


@pytest.mark.parametrize(("devices", "options", "steadied"), [
    ("1", {}, False),
    ("1", dict(processes=1), False),
    ("2", {}, True),
    ("1", dict(coordinator="a:1", processes=2, index=1), True),
])  # fmt: skip
def test_cpus_that_wait_for_each_other_run_collectives_in_one_order(
    devices, options, steadied, monkeypatch, nobody_joins
):
    """In another order in each process they would read each other's data, or wait for ever."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("NPROC", "32")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", devices)
    processes.start(**options)
    assert (f"--{processes.SCHEDULER}=false" in os.environ["XLA_FLAGS"]) == steadied
    assert len(nobody_joins) == ("coordinator" in options)
