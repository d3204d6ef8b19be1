import re

import pytest

from ftjax.run import topology

NAMES = {
    "v5e-16": (16, "4x4", 1), "v5e:2x4": (8, "2x4", 1), "2xv5e-16": (32, "4x4", 2),
    "v4-8": (4, "2x2x1", 1), "v5p-128": (64, "4x4x4", 1), "v5p:4x4x4": (64, "4x4x4", 1),
    "v6e-256": (256, "16x16", 1), "tpu7x-8": (8, "2x2x1", 1), "cpu:8": (8, "", 1),
    "h100-8": (8, "1x8", 1), "h200:4x8": (32, "4x8", 1), "2xh100-16": (32, "2x8", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_say_how_many_devices_there_are(name):
    found = topology.read(name)
    assert (found.count, found.shape, found.slices) == NAMES[name]
    kind = re.sub(r"^\d+x", "", name)[0]
    assert found.platform == {"c": "cpu", "h": "gpu"}.get(kind, "tpu")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("v5e-17", "'v5e-1"), ("v5-16", "'v5p-16'"), ("v5p-7", "'v5p-"), ("v5e:3x3", "'v5e-"),
        ("cpu:0", ""), ("h100-7", "'h100-"), ("a100-8", "'h100-8'"), ("0xv5e-16", ""),
        ("v5e", "'v5e-"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_told_with_the_nearest_and_the_list(name, near):
    with pytest.raises(
        ValueError, match=rf"--topology: got '{name}'; expected one of v4-8\|16"
    ) as e:
        topology.read(name)
    assert "v5e-1|4|8|16|32|64|128|256" in str(e.value)
    assert near in str(e.value)


def test_hosts_and_rings():
    assert [topology._host(sizes) for sizes in ((1, 1), (2, 4), (4, 4), (4, 4, 4))] == [
        (1, 1, 1), (2, 4, 1), (2, 2, 1), (2, 2, 1),
    ]  # fmt: skip
    assert topology._wrap("v5e", (8, 16)) == (False, True, False)
    assert topology._wrap("v5p", (4, 4, 8)) == (True, True, True)
    assert topology._wrap("v5p", (2, 4, 4)) == (False, False, False)


def test_more_cpus_than_there_are_is_an_error():
    assert len(topology.read("cpu:4").devices()) == 4
    with pytest.raises(
        ValueError, match="'cpu:9' with 8 CPU devices here; expected as many; set JAX"
    ):
        topology.read("cpu:9").devices()


def test_a_host_of_gpus_is_a_slice():
    """NVLink ends there; kernels are chosen by what the card is called."""
    options, needed = topology.read("2xh100-16")._gpus()
    assert options["topology"] == "4x1x8"
    assert "NVIDIA H100" in options["target_config"]
    assert f"device_memory_size: {81559 * 2**20}\n" in options["target_config"]
    assert (needed.platform, needed.extra) == ("cuda", "cuda")
