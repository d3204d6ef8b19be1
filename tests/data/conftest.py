import pathlib

import pytest

import ftjax
from ftjax.data import tokenizer_files


@pytest.fixture(scope="session")
def bpe():
    """The small tokenizer that comes with the package."""
    return tokenizer_files.load(pathlib.Path(ftjax.__file__).parent / "assets" / "tiny")
