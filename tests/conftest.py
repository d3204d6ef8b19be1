"""Eight fake CPU devices, a shared compilation cache, and the outside material that tests may use.

`FTJAX_GOLDEN` and `FTJAX_DATA` point at reference files and real data; without them the folders
beside the checkout are used, and where there are none the tests that need them skip, saying so.
"""

import contextlib
import gc
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# NumPy's matrices are small here, and threads that wait for each other's part spin: a decomposition
# takes several times the processor's time with two as with one, the more so beside other tests.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the real Hub; `tests/stand_in_hub.py` is asked
os.environ["FTJAX_CACHE"] = ""  # each test encodes its data; those of the cache set a folder

import jax
import pytest

from ftjax.core import processes
from tests import quick

processes.start()  # of one process: steadies fake devices

# Fixtures of whole runs, for the tests of `run`, `rl` and the commands.
pytest_plugins = ("tests.lab", "tests.stand_in_hub", "tests.stand_in_store")

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent
CACHE = os.environ.get("FTJAX_TEST_CACHE", os.path.join(tempfile.gettempdir(), "ftjax-xla-cache"))

jax.config.update("jax_compilation_cache_dir", CACHE)
# A file forgets its programs in memory; the small ones of the next are the same.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_default_matmul_precision", "highest")

quick.share_contexts()

# Tracing makes and drops millions of small objects. At Python's own threshold of 700, looking for
# cycles among them takes 7 % of the processor's time of a file of laws.
gc.set_threshold(100_000, 20, 50)


def pytest_collection_finish():
    """Leave what was collected out of every later search for cycles."""
    gc.collect()
    gc.freeze()


# Of the 65,530 memory maps that Linux gives a process; a compiled program holds several, and XLA
# ends the process when there are no more.
MOST_MAPS = 40_000
MAPS = pathlib.Path("/proc/self/maps")
# To count 10,000 of them takes 10 ms, and most tests compile little.
PROGRAMS_A_COUNT = 1_000
programs = []  # the seconds that each took, of those since maps were counted


def note_program(event, seconds, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        programs.append(seconds)


jax.monitoring.register_event_duration_secs_listener(note_program)


# What is asked there hangs on how programs round, or on what they keep in memory, as users have
# them. Elsewhere compiling is nearly all of the time, and how well it is done does not matter.
AS_USERS_HAVE_THEM = (
    "ops/test_attention.py", "ops/test_gpu.py", "ops/test_loss.py", "ops/test_moe.py",
    "ops/test_norm.py", "ops/test_products.py", "ops/test_quantize.py", "train/test_edits.py",
    "train/test_rounding.py", "train/test_step.py", "models/test_memory.py",
    "golden/test_training.py", "golden/test_preference_training.py", "run/test_rehearse_tpu.py",
    "run/test_stated_rehearsals.py",
)  # fmt: skip
assert all((TESTS / name).is_file() for name in AS_USERS_HAVE_THEM)


@pytest.fixture(scope="module", autouse=True)
def compile_as_the_file_asks(request):
    """Compile quickly but in the files of AS_USERS_HAVE_THEM, and on devices that are no CPUs."""
    as_users = any(request.path.is_relative_to(TESTS / name) for name in AS_USERS_HAVE_THEM)
    as_users |= jax.default_backend() != "cpu"
    with contextlib.nullcontext() if as_users else quick.compiles():
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Let go of a file's compiled programs."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def forget_programs_in_time():
    """Let go of them within a file that compiles too many."""
    yield
    if len(programs) < PROGRAMS_A_COUNT:
        return
    programs.clear()
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


def outside(variable: str, name: str) -> pathlib.Path:
    """Return the folder that `variable` names, or `../shared/<name>`; skip when there is none."""
    folder = pathlib.Path(os.environ.get(variable) or ROOT.parent / "shared" / name)
    if not folder.is_dir():
        pytest.skip(f"no reference material: set {variable} to its folder")
    return folder


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """Folder of reference logits, adapters, losses and curves."""
    return outside("FTJAX_GOLDEN", "golden")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real data sets."""
    return outside("FTJAX_DATA", "data")
