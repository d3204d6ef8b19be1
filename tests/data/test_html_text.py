import pytest

from ftjax.data import html_text
from ftjax.data.sources import documents


def test_the_visible_text_is_taken_block_by_block():
    page = html_text.read(
        "<!doctype html><html><head><title>A &amp;\n B</title><style>p { x }</style></head><body>"
        "<h1>Head</h1><p>One <b>bold</b>\nword.<br>Next&nbsp;line</p>"
        "<script>if (a < b) { hidden() }</script>"
        "<ul><li>first<li>second</ul><svg><title>icon</title></svg>last"
    )
    assert page.title == "A & B"
    assert page.text == "Head\n\nOne bold word.\nNext line\n\nfirst\nsecond\n\nlast"


@pytest.mark.parametrize("source", ["<head><meta><body><p>text", "<p>text</div></script>", "text"])
def test_broken_markup_hides_nothing(source):
    assert html_text.read(source) == html_text.Page("", "text")


def test_folders_of_pages_are_documents(tmp_path):
    (tmp_path / "a.html").write_text("<title>T</title><p>One.<p>Two.")
    (tmp_path / "b.md").write_text("# plain")
    rows = documents.read(tmp_path, where="passages")
    assert [row["text"] for row in rows] == ["One.\n\nTwo.", "# plain"]
    assert [row.get("title") for row in rows] == ["T", None]
    assert rows.where(0) == f"{tmp_path / 'a.html'}:1"
