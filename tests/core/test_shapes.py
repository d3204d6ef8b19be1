import numpy as np
import pytest

from ftjax.core import shapes


@pytest.mark.parametrize(
    ("count", "least", "most", "expected"),
    [(1, 16, None, 16), (16, 16, None, 16), (17, 16, None, 32), (33, 16, 48, 48), (48, 16, 48, 48)],
)
def test_lengths_round_up_to_powers_of_two(count, least, most, expected):
    assert shapes.bucket(count, min_size=least, max_size=most) == expected


def test_too_long_is_an_error():
    with pytest.raises(ValueError, match="got 49; expected at most 48"):
        shapes.bucket(49, min_size=16, max_size=48)


def test_rows_fill_on_the_right():
    found = shapes.pad_rows([[5, 6], [], [7, 8, 9]], 3, fill=-1)
    np.testing.assert_array_equal(found, [[5, 6, -1], [-1, -1, -1], [7, 8, 9]])
    assert found.dtype == np.int32
