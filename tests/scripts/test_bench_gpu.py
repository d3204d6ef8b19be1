"""The benchmark of accelerators: the step that it measures is that of a run."""

import argparse

import pytest

from scripts import bench_gpu


@pytest.mark.parametrize("mode", bench_gpu.MODES)
def test_it_steps_and_counts(mode):
    given = bench_gpu.parser().parse_args(["--rows=1", "--steps=2", "--warmup=1", "--length=16"])
    found = bench_gpu.one(f"tiny,{mode}", argparse.Namespace(**vars(given)))
    step_s, speed = found["step_s"], found["tokens_per_second_per_device"]
    assert speed == pytest.approx(16 / step_s)
    assert found["mfu"] is None  # nobody knows the peak of a CPU
    assert found["devices"] == 8
