"""A run of two processes: a signal to one of them stops both at one step, and one alone goes on."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import threading

from tests.train.test_loop import make_step, rows_of, train

ROOT = pathlib.Path(__file__).resolve().parents[2]

WORKER = """
import os, sys, time, jax, jax.numpy as jnp, numpy as np
port, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize("127.0.0.1:" + port, num_processes=2, process_id=rank)
from jax.sharding import NamedSharding, PartitionSpec as P
from ftjax.report import writers
from ftjax.train import loop
from ftjax.train.checkpoint import Checkpoints
from tests.train.test_loop import Batches, State, toy_step

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
everywhere = NamedSharding(mesh, P())

def put(x):
    return jax.make_array_from_process_local_data(everywhere, np.asarray(x), np.shape(x))

class Placed(Batches):
    def __next__(self):
        time.sleep(0.05)
        return {name: put(x) for name, x in super().__next__().items()}

start = jax.jit(
    lambda: State(jnp.int32(0), {"w": jnp.zeros(4)}, (), None, jax.random.key(0)),
    out_shardings=everywhere,
)
step = jax.jit(toy_step, donate_argnums=0, out_shardings=(everywhere, everywhere))
batches, writer = Placed(), writers.Jsonl(folder + "/metrics.jsonl")
with Checkpoints(folder + "/checkpoints") as checkpoints:
    state, progress = loop.resume(checkpoints, start(), batches, writers=[writer])
    result = loop.run(
        step, state, put(np.float32(1.0)), batches, until=1000,
        log_every_steps=1, writers=[writer], checkpoints=checkpoints, save_every_steps=5,
        progress=progress,
    )
print("END", result.stopped, result.step, flush=True)
jax.distributed.shutdown()
"""


def start_pair(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), port, str(rank), str(folder)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


def ends(pair):
    outputs = [process.communicate(timeout=90) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    return [out.strip().splitlines()[-1] for out, _ in outputs]


def test_two_processes_stop_at_one_step_and_one_process_resumes(tmp_path):
    pair = start_pair(tmp_path)
    log = tmp_path / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size > 0):
        assert pair[0].poll() is None, pair[0].communicate()
        threading.Event().wait(0.05)
    pair[1].send_signal(signal.SIGTERM)  # to one of them alone
    first, second = ends(pair)
    assert first == second
    word, why, at = first.split()
    assert (word, why) == ("END", "SIGTERM")
    assert (tmp_path / "checkpoints" / at / "digest.json").exists()
    until = int(at) + 3
    result = train(make_step(), tmp_path, until=until, log=1)
    assert (result.step, result.tokens) == (until, 8 * until)
    steps = [row["step"] for row in rows_of(tmp_path)]
    assert steps == list(range(1, until + 1))
