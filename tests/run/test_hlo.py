"""What is read off HLO text, against programs whose numbers are known in closed form."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ftjax.core import mesh as meshes
from ftjax.run import hlo

# A loop of 5 turns around a loop of 3, in the way of TPUs: bounds in the condition, no trip counts.
NESTED = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p0: bf16[16,8], p1: bf16[8,4]) -> f32[16,4] {
  %p0 = bf16[16,8]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[8,4]{1,0} parameter(1)
  ROOT %c = f32[16,4]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf, metadata={op_name="step/mk"}
}

%gathering (q: bf16[4,4]) -> bf16[16,4] {
  %q = bf16[4,4]{1,0} parameter(0)
  ROOT %ag = bf16[16,4]{1,0} all-gather(%q), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
}

%inner_body (t: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %t = (s32[], f32[16,4]{1,0:T(8,128)S(1)}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[16,4]{1,0} get-tuple-element(%t), index=1
  %f = f32[16,4]{1,0} fusion(%x, %x), kind=kOutput, calls=%fused
  %s = bf16[16,4]{1,0} fusion(%x), kind=kCustom, calls=%gathering, metadata={op_name="step/first"}
  %d = bf16[16,4]{1,0} fusion(%s), kind=kCustom, calls=%gathering, metadata={op_name="step/last"}
  ROOT %r = (s32[], f32[16,4]{1,0}) tuple(%i, %f)
}

%inner_condition (t: (s32[], f32[16,4])) -> pred[] {
  %t = (s32[], f32[16,4]{1,0}) parameter(0)
  %n = s32[] constant(3)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%outer_body (t: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %t = (s32[], f32[16,4]{1,0}) parameter(0)
  %w = (s32[], f32[16,4]{1,0}) while(%t), condition=%inner_condition, body=%inner_body
  %x = f32[16,4]{1,0} get-tuple-element(%w), index=1
  %ar = f32[16,4]{1,0} all-reduce(%x), channel_id=8, replica_groups={{0,1,2,3,4,5,6,7}}, \
to_apply=%add
  %i = s32[] get-tuple-element(%w), index=0
  ROOT %r = (s32[], f32[16,4]{1,0}) tuple(%i, %ar)
}

%outer_condition (t: (s32[], f32[16,4])) -> pred[] {
  %t = (s32[], f32[16,4]{1,0}) parameter(0)
  ROOT %p = pred[] custom-call(%t), custom_call_target="tpu_custom_call"
}

ENTRY %main (a: f32[16,4]) -> f32[16,4] {
  %a = f32[16,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %t = (s32[], f32[16,4]{1,0}) tuple(%zero, %a)
  %w = (s32[], f32[16,4]{1,0}) while(%t), condition=%outer_condition, body=%outer_body, \
backend_config={"known_trip_count":{"n":"5"}}
  %big = f32[128,16,4]{2,1,0:T(8,128)} broadcast(%a), metadata={op_name="step/big"}
  %near = f32[512,16,4]{2,1,0:T(8,128)S(1)} broadcast(%a), metadata={op_name="step/near"}
  ROOT %x = f32[16,4]{1,0} get-tuple-element(%w), index=1
}
"""


@pytest.fixture
def module():
    return hlo.parse(NESTED)


def test_loops_count_as_often_as_they_run(module):
    assert hlo.flops(module) == 5 * 3 * 2 * 16 * 8 * 4
    assert hlo.unknown_loops(module) == 0
    assert hlo.kernels(module) == 0  # a condition is no work


@pytest.mark.parametrize("kind", ["u32", "s64"])
def test_loops_may_count_in_other_integers(kind):
    module = hlo.parse(NESTED.replace("%n = s32[]", f"%n = {kind}[]"))
    assert hlo.flops(module) == 5 * 3 * 2 * 16 * 8 * 4


def test_a_loop_may_count_by_more_than_one():
    """Two turns of a matmul that overlaps with links are one of a loop that counts by two."""
    moved = "%one = s32[] constant(1)\n  %c = s32[] copy(%i)\n  %j = s32[] add(%c, %one)\n"
    moved += "  %more = s32[] add(%j, %one)\n  ROOT %r = (s32[], f32[16,4]{1,0}) tuple(%more, %f)"
    text = NESTED.replace("ROOT %r = (s32[], f32[16,4]{1,0}) tuple(%i, %f)", moved)
    assert hlo.flops(hlo.parse(text)) == 5 * 2 * 2 * 16 * 8 * 4  # 3 by twos are two turns
    once = text.replace("tuple(%more, %f)", "tuple(%j, %f)")
    assert hlo.flops(hlo.parse(once)) == 5 * 3 * 2 * 16 * 8 * 4


def test_a_collective_that_overlaps_counts_once_a_turn(module):
    """One channel in two fusions of a body is one all-gather in a start and a done."""
    reduced, gathered = sorted(hlo.collectives(module, slices=[0] * 8), reverse=True)
    assert gathered == ("all-gather", "ici", 15, 15 * 16 * 4 * 2 * 3 / 4)
    assert reduced == ("all-reduce", "ici", 5, 5 * 2 * 16 * 4 * 4 * 7 / 8)


def test_what_joins_slices_goes_over_the_slower_network(module):
    found = hlo.collectives(module, slices=[0] * 4 + [1] * 4)
    assert [(each.kind, each.network) for each in found] == [
        ("all-gather", "ici"), ("all-reduce", "dcn"),
    ]  # fmt: skip
    found = hlo.collectives(module, slices=[0, 1] * 4)
    assert {each.network for each in found} == {"dcn"}


# As a TPU with a second kind of core sends: a computation of that core, begun and ended in a loop.
BESIDE = """\
%sending (z: f32[16,4]) -> f32[16,4] {
  %z = f32[16,4]{1,0} parameter(0)
  ROOT %ar = f32[16,4]{1,0} all-reduce(%z), channel_id=8, replica_groups={{0,1,2,3,4,5,6,7}}, \
to_apply=%add
}, execution_thread="sparsecore"

%begun (y: f32[16,4]) -> f32[16,4] {
  %y = f32[16,4]{1,0} parameter(0)
  ROOT %own = f32[16,4]{1,0} custom-call(%y), custom_call_target="x", \
called_computations={%sending}
}, execution_thread="sparsecore"

%inner_body ("""
STARTED = """\
%b = ((), (), s32[9]{0}) async-start(), async_execution_thread="sparsecore", calls=%begun
  %u = ((f32[16,4]), f32[16,4], s32[9]{0}) async-update(%b, %x)
  %ar = f32[16,4]{1,0} async-done(%u)
"""


def test_what_another_core_sends_is_counted_once(module):
    (line,) = [each for each in NESTED.splitlines() if each.startswith("  %ar = ")]
    text = NESTED.replace(line, f"  {STARTED}", 1).replace("%inner_body (", BESIDE, 1)
    found = hlo.parse(text)
    assert "all-reduce" not in {own.opcode for own in found.computations["outer_body"]}
    assert sorted(hlo.collectives(found, slices=[0] * 8)) == sorted(
        hlo.collectives(module, slices=[0] * 8)
    )
    assert hlo.flops(found) == hlo.flops(module)
    assert {code for *_, code in hlo.largest(found, 9)} == {
        code for *_, code in hlo.largest(module, 9)
    }


def test_a_loop_without_bounds_counts_once_and_is_said():
    module = hlo.parse(
        NESTED.replace("known_trip_count", "unknown").replace("%n = s32", "%n = f32")
    )
    assert hlo.unknown_loops(module) == 2
    assert hlo.flops(module) == 2 * 16 * 8 * 4


def test_large_results_are_those_in_memory(module):
    (size, shape, code), *rest = hlo.largest(module, 5)
    assert (size, shape, code) == (4 * 128 * 16 * 4, "f32[128,16,4]", "step/big")
    assert {code for *_, code in rest} == {"f", "step/first", "step/last", "ar"}


def test_text_of_something_else_is_named():
    with pytest.raises(ValueError, match="hlo: got 'no module'; expected a module with an ENTRY"):
        hlo.parse("no module")


GROUPS = {
    "replica_groups={{0,2},{1,3}}": [[0, 2], [1, 3]],
    "replica_groups=[2,2]<=[4]": [[0, 1], [2, 3]],
    "replica_groups=[2,2]<=[2,2]T(1,0)": [[0, 2], [1, 3]],
    "replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}": [[0, 2], [1, 3]],
    "replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}": [[0, 1], [2, 3]],
    "replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0','axis_1'}": [[0, 1, 2, 3]],
    "source_target_pairs={{0,1},{1,0}}": [[0, 1], [1, 0]],
    "replica_groups={}": [[0, 1, 2, 3]],
}


@pytest.mark.parametrize("text", GROUPS)
def test_groups_in_every_notation(text):
    own = hlo.Instruction("x", "f32[8]", "all-gather", (), f", channel_id=1, {text}, d={{0}}", "")
    assert hlo._groups(own, 4) == GROUPS[text]


SENT = {
    "all-gather(%x)": ("f32[8]", 32 * 3 / 4),
    "all-gather-start(%x)": ("(f32[2], f32[8]{0:T(8,128)})", 32 * 3 / 4),
    "all-reduce-start(%x)": ("f32[8]", 2 * 32 * 3 / 4),
    "reduce-scatter(%x)": ("bf16[2]", 4 * 3),
    "all-to-all(%x)": ("(f32[2]{0}, f32[2]{0}, f32[2]{0}, f32[2]{0})", 32 * 3 / 4),
    "collective-permute-start(%x)": ("(f32[8], f32[8], u32[], u32[])", 32),
}


@pytest.mark.parametrize("call", SENT)
def test_bytes_of_a_ring(call):
    shape, wanted = SENT[call]
    line = f"  %c = {shape} {call}, channel_id=1, replica_groups=[1,4]<=[4]"
    done = f"  %d = f32[8] {call.partition('(')[0].removesuffix('-start')}-done(%c)"
    module = hlo.parse(f"ENTRY %main (x: f32[2]) -> f32[8] {{\n{line}\n{done}\n}}\n")
    (found,) = hlo.collectives(module, slices=[0] * 4)
    assert found.bytes == wanted


CONVOLUTIONS = {
    # A batched matmul as TPUs write it: of a window of 8, one place meets data.
    ("f32[8,64,32]", "bf16[8,64,16]", "bf16[8,32,16]",
     "window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf"): 2 * 8 * 64 * 32 * 16,
    ("f32[8,64,32]", "bf16[8,16,64]", "bf16[8,32,16]",
     "window={size=8 stride=8 pad=7_7 lhs_dilate=7 rhs_reversal=1}, dim_labels=0fb_0oi->0bf"):
        2 * 8 * 64 * 32 * 16,
    # A convolution of width 3 over 10 places, with padding: the ends meet one place less.
    ("f32[4,10,6]", "f32[4,10,5]", "f32[3,5,6]", "window={size=3 pad=1_1}, "
     "dim_labels=b0f_0io->b0f"):
        2 * 4 * 6 * 5 * (3 * 10 - 2),
    ("f32[16,4]", "f32[8,16]", "f32[4,8]", "dim_labels=fb_oi->bf"): 2 * 16 * 4 * 8,
}  # fmt: skip


@pytest.mark.parametrize("shapes", CONVOLUTIONS)
def test_convolutions_count_what_meets_data(shapes):
    result, left, kernel, text = shapes
    own = hlo.Instruction("c", result, "convolution", ("l", "k"), f", {text}", "")
    sizes = [hlo.arrays(shape)[0][1] for shape in (left, kernel)]
    assert hlo._convolution(own, *sizes) == CONVOLUTIONS[shapes]


def test_a_compiled_program_has_the_flops_and_bytes_of_its_formula():
    """Ten layers of [32, 64] x [64, 64], each gathered over 4 devices."""
    mesh = meshes.make(data=1, fsdp=4, devices=jax.devices()[:4])
    place = lambda shape, spec: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=jax.sharding.NamedSharding(mesh, spec)
    )
    w, x = place((10, 64, 64), P(None, "fsdp", None)), place((32, 64), P("data", None))

    def run(w, x):
        whole = jax.sharding.NamedSharding(mesh, P())
        layer = lambda x, w: (x @ jax.lax.with_sharding_constraint(w, whole), None)
        return jax.lax.scan(layer, x, w)[0]

    module = hlo.parse(jax.jit(run).lower(w, x).compile().as_text())
    assert hlo.flops(module) == 10 * 2 * 32 * 64 * 64
    (found,) = hlo.collectives(module, slices=[0] * 4)
    assert found.kind == "all-gather"
    assert found.bytes == 10 * 64 * 64 * 4 * 3 / 4


@pytest.mark.parametrize(
    ("target", "count"),
    [("tpu_custom_call", 1), ("__cudnn$fmhaSoftmaxBackward", 1), ("__cublas$gemm", 0)],
)
def test_kernels_are_calls_whose_flops_nobody_tells(target, count):
    text = NESTED.rstrip().removesuffix("}").rstrip()
    text += f'\n  %own = f32[4]{{0}} custom-call(), custom_call_target="{target}"\n}}\n'
    assert hlo.kernels(hlo.parse(text)) == count
