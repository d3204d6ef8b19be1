import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ftjax.core import digest
from ftjax.core.mean import Mean
from ftjax.train import serialize
from ftjax.train.checkpoint import CheckpointError, Checkpoints
from tests import joined

ROOT = pathlib.Path(__file__).resolve().parents[2]


class State(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: tuple
    ema: dict | None
    key: jax.Array


def make_state(step=0, width=8, rank=2):
    """A state with holes, a registered dataclass, bfloat16, an optax state and a typed key."""
    value = jnp.arange(width * rank, dtype=jnp.float32).reshape(width, rank) + step + 0.1
    params = {"model": {"embed": None}, "adapters": {"q": Mean(value, value.astype(jnp.bfloat16))}}
    key = jax.random.fold_in(jax.random.key(3), step)
    return State(jnp.int32(step), params, optax.adam(1e-3).init(params), None, key)


def abstract(state, sharding=None):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    spec = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or one)
    return jax.tree.map(spec, state)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(
        jax.tree.leaves(serialize.to_disk(a)), jax.tree.leaves(serialize.to_disk(b)), strict=True
    ):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def saved(folder, steps=(1, 2), **kw):
    """Save `steps` and close; return the folder."""
    with Checkpoints(folder, **kw) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), data={"next_batch": step})
    return folder


def largest(folder):
    """The biggest array file of a step: the data themselves."""
    return max((folder / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def test_round_trip_is_bit_exact_with_holes_dataclasses_and_keys(tmp_path):
    saved(tmp_path, config={"lr": 0.1, "shape": (2, 3)}, frozen={"source": "toy", "hash": "ab"})
    with Checkpoints(
        tmp_path, config={"lr": 0.1, "shape": [2, 3]}, frozen={"source": "toy", "hash": "ab"}
    ) as checkpoints:
        restored = checkpoints.restore(abstract(make_state()))
    assert restored.step == 2
    assert restored.data == {"next_batch": 2}
    assert restored.state.params["model"]["embed"] is None
    same(restored.state, make_state(2))
    assert jax.random.normal(restored.state.key) == jax.random.normal(make_state(2).key)
    assert restored.meta["versions"]["jax"] == jax.__version__
    assert restored.meta["tree"]["params/adapters/q/total"] == {"shape": [8, 2], "dtype": "float32"}


def test_a_concrete_state_serves_as_pattern_and_a_fresh_directory_gives_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state()) is None
        checkpoints.save(4, make_state(4))
        same(checkpoints.restore(make_state()).state, make_state(4))


def test_the_disk_holds_plain_nested_dicts():
    nested = serialize.to_disk(make_state(1))
    assert set(nested) == {"step", "params", "opt_state", "key"}
    assert nested["opt_state"]["0"]["mu"]["adapters"]["q"]["total"].shape == (8, 2)
    assert nested["key"].dtype == jnp.uint32


def test_two_leaves_on_one_path_are_refused():
    with pytest.raises(ValueError, match="share a path"):
        serialize.to_disk({"a": {"b": jnp.zeros(2)}, "a/b": jnp.zeros(2)})


def flip_bit(step_folder):
    path = largest(step_folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(step_folder):
    os.truncate(largest(step_folder), 20)


def drop_file(step_folder):
    largest(step_folder).unlink()


def drop_digest(step_folder):
    (step_folder / digest.NAME).unlink()


def edit_position(step_folder):
    path = step_folder / "data" / "metadata"
    path.write_text(path.read_text().replace("2", "3"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_bit, "digest"),
        (truncate, "digest"),
        (edit_position, "digest"),
        (drop_file, "missing-file"),
        (drop_digest, "no-digest"),
    ],
)
def test_damage_falls_back_to_the_step_before(tmp_path, damage, reason):
    damage(saved(tmp_path) / "2")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(RuntimeWarning, match=f"2 is damaged.*2.bad-{reason}"):
            restored = checkpoints.restore(abstract(make_state()))
        assert restored.step == 1
        same(restored.state, make_state(1))
        assert (tmp_path / f"2.bad-{reason}").is_dir()
        checkpoints.save(2, make_state(2))  # the run goes on and writes the step anew
    assert digest.problem(tmp_path / "2") is None


def test_no_good_step_left_is_an_error_now_and_later(tmp_path):
    flip_bit(saved(tmp_path, steps=(1,)) / "1")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.warns(RuntimeWarning, match="damaged"),
        pytest.raises(CheckpointError, match=r"1\.bad-digest"),
    ):
        checkpoints.restore(abstract(make_state()))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="no good"):
        checkpoints.restore(abstract(make_state()))


def test_a_leftover_temporary_directory_is_passed_over(tmp_path):
    saved(tmp_path, steps=(1,))
    (tmp_path / "2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state())).step == 1
        checkpoints.save(2, make_state(2))
        checkpoints.wait()
        assert checkpoints.restore(abstract(make_state())).step == 2


@pytest.mark.parametrize(("mode", "kept"), [("min", [2, 4, 5]), ("max", [1, 4, 5])])
def test_keeps_the_last_and_the_best(tmp_path, mode, kept):
    losses = {1: 9.0, 2: 1.0, 3: float("nan"), 4: 3.0, 5: None}
    with Checkpoints(tmp_path, keep=2, best="eval/nll", mode=mode) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, {"w": jnp.float32(step)[None]}, metrics={"eval/nll": loss})
    with Checkpoints(tmp_path, keep=2, best="eval/nll", mode=mode) as checkpoints:
        assert checkpoints.steps() == kept
        assert checkpoints.best_step() == kept[0]
        assert checkpoints.restore({"w": jnp.zeros(1)}, step=kept[0]).state["w"] == kept[0]
        with pytest.raises(CheckpointError, match="expected one of"):
            checkpoints.restore({"w": jnp.zeros(1)}, step=77)


def test_steps_that_reuse_the_buffers_do_not_reach_a_save_under_way(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        state = step(jnp.zeros(4_000_000))
        checkpoints.save(1, {"w": state})
        for _ in range(20):
            state = step(state)
        restored = checkpoints.restore({"w": state})
    assert jnp.array_equal(restored.state["w"], jnp.ones(4_000_000))


def test_restores_onto_another_mesh(tmp_path):
    def on(count, state):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("x",))
        split = lambda x: NamedSharding(mesh, PartitionSpec(*(["x"] if x.ndim == 2 else [])))
        return jax.tree.map(lambda x: jax.device_put(x, split(x)), state)

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, on(8, make_state(1)))
        restored = checkpoints.restore(on(4, make_state())).state
    same(restored, make_state(1))
    assert len(restored.params["adapters"]["q"].total.sharding.device_set) == 4
    assert restored.params["adapters"]["q"].total.addressable_shards[0].data.shape == (2, 2)


def test_another_tree_is_named_by_path(tmp_path):
    saved(tmp_path, steps=(1,))
    wider = make_state(rank=3)
    wider.params["adapters"]["k"] = jnp.zeros(2)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="other paths") as error,
    ):
        checkpoints.restore(wider)
    assert "params/adapters/q/total: checkpoint float32[8, 2], here float32[8, 3]" in str(
        error.value
    )
    assert "params/adapters/k: not in the checkpoint" in str(error.value)
    narrow = make_state()._replace(opt_state=())
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"mu.*in the checkpoint alone"),
    ):
        checkpoints.restore(narrow)


def test_another_config_or_base_is_refused_with_the_changed_keys(tmp_path):
    frozen = {"hash": "ab"}
    saved(tmp_path, steps=(1,), config={"optim": {"lr": 0.1}, "steps": 5}, frozen=frozen)
    other = {"optim": {"lr": 0.2, "decay": 0.0}, "steps": 9}
    with (
        Checkpoints(tmp_path, config=other, frozen={"hash": "cd"}, free=("steps",)) as checkpoints,
        pytest.raises(ValueError, match="allow_config_change") as error,
    ):
        checkpoints.restore(make_state())
    assert "optim/lr: 0.1 -> 0.2" in str(error.value)
    assert "optim/decay: '(absent)' -> 0.0" in str(error.value)
    assert "frozen/hash: 'ab' -> 'cd'" in str(error.value)
    assert "steps" not in str(error.value).split("alone):")[1]
    with Checkpoints(tmp_path, config=other, allow_config_change=True) as checkpoints:
        assert checkpoints.restore(make_state()).step == 1


@pytest.mark.parametrize(("keyword", "value"), [("mode", "least"), ("keep", 0)])
def test_bad_options_are_named(tmp_path, keyword, value):
    with pytest.raises(ValueError, match=f"checkpoint.{keyword}: got"):
        Checkpoints(tmp_path, **{keyword: value})


PRELUDE = """
import sys, jax, jax.numpy as jnp
from ftjax.train.checkpoint import Checkpoints, CheckpointError
state = lambda step, size=1000: {"w": jax.random.bits(jax.random.key(step), (size,))}
"""


def start(body, folder):
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body), str(folder)],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_kill_in_the_middle_of_a_save_loses_that_save_alone(tmp_path):
    process = start(
        """
        checkpoints = Checkpoints(sys.argv[1])
        checkpoints.save(1, state(1))
        checkpoints.wait()
        from ftjax.core import digest
        import time
        def stall(folder):
            print("writing", flush=True)
            time.sleep(60)
        digest.write = stall                       # the arrays are there, the commit is not
        checkpoints.save(2, state(2))
        checkpoints.wait()
        """,
        tmp_path,
    )
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore({"w": jnp.zeros(1000, jnp.uint32)})
        assert restored.step == 1
        # Bits and not normals: these are the same whatever the other process compiled.
        assert jnp.array_equal(restored.state["w"], jax.random.bits(jax.random.key(1), (1000,)))
        checkpoints.save(2, restored.state)
    assert digest.problem(tmp_path / "2") is None


def test_a_full_disk_is_named_and_the_older_steps_stay(tmp_path):
    process = start(
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with Checkpoints(sys.argv[1]) as checkpoints:
            checkpoints.save(1, state(1))
            checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))
            try:
                checkpoints.save(2, state(2, 300_000))
                checkpoints.wait()
            except CheckpointError as error:
                print("ERROR", error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            checkpoints.save(3, state(3))
            checkpoints.wait()
            print("STEPS", checkpoints.steps())
        """,
        tmp_path,
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"ERROR {tmp_path}/2: the checkpoint was not written" in output
    assert "STEPS [1, 3]" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def test_the_digest_lists_every_file_of_state_data_and_meta(tmp_path):
    folder = saved(tmp_path, steps=(1,)) / "1"
    listed = json.loads((folder / digest.NAME).read_text())["sha256"]
    assert {name.split("/")[0] for name in listed} == {"state", "data", "meta"}
    assert largest(folder).relative_to(folder).as_posix() in listed


def test_damaged_metrics_set_a_step_aside_before_it_is_opened(tmp_path):
    with Checkpoints(tmp_path, best="eval/nll") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), metrics={"eval/nll": 1.0 * step})
    (tmp_path / "2" / "metrics" / "metrics").write_bytes(b"{")
    with Checkpoints(tmp_path, best="eval/nll", read_only=True) as checkpoints:
        assert checkpoints.best_step() == 1
    with pytest.warns(RuntimeWarning, match=r"metrics cannot be read; .*2\.bad-metrics"):
        checkpoints = Checkpoints(tmp_path, best="eval/nll")
    with checkpoints:
        assert checkpoints.restore(make_state()).step == 1


def test_a_reader_is_not_warned_that_it_reads(tmp_path, caplog):
    saved(tmp_path)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore(make_state()).step == 2
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == []


def restore_own(folders):
    """Restore from a folder for each process, as if one host saw other bytes than another."""
    folder = pathlib.Path(folders[jax.process_index()])
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    like = abstract(make_state(), NamedSharding(mesh, PartitionSpec()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        checkpoints = Checkpoints(folder, config={"lr": 0.0})
        restored = checkpoints.restore(like)
        refused = refusal(folder, like)
    same(jax.tree.map(lambda x: x.addressable_data(0), restored.state), make_state(restored.step))
    said = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    return {"step": restored.step, "said": said, "refused": refused}


def refusal(folder, like):
    """Restore with a config that process 1 has changed; returns what each process is told."""
    other = {"lr": 1.0 * jax.process_index()}
    try:
        Checkpoints(folder, config=other, read_only=True).restore(like, step=1)
    except ValueError as error:
        return str(error)


def test_a_step_that_one_host_cannot_read_is_left_by_all(tmp_path):
    one, other = saved(tmp_path / "one", config={"lr": 0.0}), tmp_path / "other"
    shutil.copytree(one, other)
    truncate(other / "2")
    first, second = joined.call(restore_own, [str(one), str(other)])
    assert (first["step"], second["step"]) == (1, 1)
    assert "2 is damaged: another process cannot read it" in " ".join(first["said"])
    assert "2 is damaged" in " ".join(second["said"])
    assert (one / "2.bad-unreadable").is_dir()
    assert "another process refused it" in first["refused"]
    assert "lr: 0.0 -> 1.0" in second["refused"]
