"""A slice of `scripts/fuzz_rows.py`: rows and files changed at random are read or refused."""

import importlib.util
import pathlib
from collections import Counter

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "fuzz_rows.py"


def test_no_mutation_ends_in_a_traceback():
    spec = importlib.util.spec_from_file_location("fuzz_rows", SCRIPT)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    total = sum(fuzz.run(150, 7, stop=True).values(), Counter())
    assert set(total) == {"read", "refused"}
    assert min(total.values()) > 30
