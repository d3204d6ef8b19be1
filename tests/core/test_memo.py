"""Results are kept by their arguments, where these can be told apart."""

import pytest

from ftjax.core import memo


@pytest.fixture
def make():
    calls = []

    @memo.keep(2)
    def made(*args):
        calls.append(args)
        return object()

    made.calls = calls
    return made


def test_equal_arguments_give_what_was_made(make):
    assert make((1, 2), None) is make((1, 2), None)
    assert make((1, 3), None) is not make((1, 2), None)
    assert len(make.calls) == 2


def test_the_oldest_goes(make):
    first = make(1)
    make(2), make(3)
    assert make(1) is not first


def test_what_has_no_hash_is_made_anew(make):
    assert make([1]) is not make([1])
    assert len(make.calls) == 2


def test_an_error_of_the_function_is_its_own():
    @memo.keep(2)
    def fails(_):
        raise TypeError("of the function")

    with pytest.raises(TypeError, match="of the function"):
        fails(1)
