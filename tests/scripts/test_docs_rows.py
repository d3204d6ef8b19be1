"""What the page of rows shows is what training learns."""

import pytest

from scripts import docs_rows

EXPECTED = {
    "Prompt and response": ["2 + 2 =⟦ 4<|eos|>⟧"],
    "Other names": ["2 + 2?\nA:⟦ 4<|eos|>⟧"],
    "Alpaca": ["Add.\n2 and 2\n⟦4<|eos|>⟧"],
    "Plain text": ["⟦Two and two is four.<|eos|>⟧"],
    "All of a prompt too": ["⟦2 + 2 = 4<|eos|>⟧"],
    "A preference: two answers, each after the prompt": [
        "2 + 2 =⟦ 4<|eos|>⟧", "2 + 2 =⟦ 5<|eos|>⟧",
    ],
}  # fmt: skip
LEARNED = {
    "Messages": ["4<|im_end|>", "6<|im_end|>"],
    "The last turn alone": ["6<|im_end|>"],
    "A turn that is not learned": ["4<|im_end|>"],
    "ShareGPT": ["4<|im_end|>"],
    "Prompt and response as a chat": ["4<|im_end|>"],
}


@pytest.mark.parametrize("shown", docs_rows.ROWS, ids=lambda shown: shown.title)
def test_what_is_learned_of_a_row(shown):
    found = docs_rows.learned(shown)
    if shown.title in EXPECTED:
        assert found == EXPECTED[shown.title]
    else:
        [text] = found
        inside = [piece.partition("⟧")[0] for piece in text.split("⟦")[1:]]
        assert inside == LEARNED[shown.title]


def test_the_page_has_them_all():
    page = docs_rows.page()
    assert all(f"\n## {shown.title}\n" in page for shown in docs_rows.ROWS)
    assert EXPECTED["Alpaca"][0] in page
