import dataclasses

import pytest

from tests import decoders


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenizer of letters: "a" is 10, "b" 11, ...; bos 1, eos 2, pad 0, anything else 9."""

    bos_id: int | None = 1
    eos_id: int | None = 2
    pad_id: int | None = 0

    def encode(self, text):
        return [10 + ord(c) - ord("a") if c.islower() else 9 for c in text]

    def decode(self, ids):
        return "".join(chr(ord("a") + i - 10) if 10 <= i < 36 else f"<{i}>" for i in ids)

    def token_id(self, token):
        return {"<9>": 9}.get(token)


@pytest.fixture(scope="session")
def model():
    return decoders.make()


@pytest.fixture(scope="session")
def params(model):
    return decoders.plain(model)


@pytest.fixture(scope="session")
def adapted(model, params):
    return decoders.adapted(model, params)


@pytest.fixture(scope="session")
def tokens():
    return Tokens()
