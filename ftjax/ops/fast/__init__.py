"""Forms that compute an op faster; each has its definition, of the same name, in `plain`.

    plain         the definitions, for readers and for the law that every form equals its own
    portable      forms for every backend: fewer products, fewer passes over memory, less of it
    flash, pairs  attention that keeps no scores, for every backend too
    cpu           forms for a CPU alone; other backends run the plain ones
    gpu, tpu      attention by a kernel of the vendor, where it is able to
    by_platform   where forms of one backend are chosen, by the platform that a program is for

    y = fast.contract("BTD,DNH->BTNH", x, w)

A form for another backend is a function in its module, named in `by_platform`. The law is
`tests/laws/test_fast.py`.
"""

from ftjax.ops.fast.by_platform import argmax, attend, grouped_matmul, transposed_product
from ftjax.ops.fast.portable import contract, contract_low_rank, in_turn, look_up, threshold

__all__ = [
    "argmax", "attend", "contract", "contract_low_rank", "grouped_matmul", "in_turn",
    "look_up", "threshold", "transposed_product",
]  # fmt: skip
