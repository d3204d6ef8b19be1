"""The docs as a site: every key and every error has its place, and nothing comes from a network."""

import os
import re
import subprocess
import sys

import pytest

import ftjax.run.config as settings
from ftjax.core import config as conf
from ftjax.run import keys
from scripts import docs_pages
from tests.lab import ROOT

OUTSIDE = re.compile(
    r"<(?:script|img|iframe|source)[^>]* src=\"?https?:|<link[^>]* rel=\"?(?:stylesheet|preconnect)"
    r"\"?[^>]*https?:|@import|url\([\"']?https?:"
)


@pytest.fixture(scope="module")
def key_page():
    return docs_pages.keys()


def part(page, heading):
    """The text under a heading."""
    (found,) = re.findall(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", page, re.M | re.S)
    return found


def test_every_key_stands_on_the_page(key_page):
    top = part(key_page, "The top of a config")
    for name in keys.legal_at(settings.defaults(), ()):
        assert f"\n| `{name}` |" in top, name
    for section, kind in settings.SECTIONS.items():
        own = part(key_page, f"`{section}`")
        assert kind.__doc__ in own
        for name in vars(kind)["__dataclass_fields__"]:
            assert f"\n| `{name}` |" in own, (section, name)
    for name in settings.defaults().optim:
        assert f"\n| `{name}` |" in part(key_page, "`optim`")


def test_comments_become_what_a_key_means(key_page):
    assert "| `keep` | `Count` | `2` |  |" in key_page  # one without a comment
    line = (
        "| `remat` | `str` | `'light'` | What the backward pass keeps: none \\| light \\| full \\| "
    )
    assert line in key_page
    assert "| `quantize` | `dict` | `dict(name='', where='blocks/**')` | A frozen base" in key_page
    assert "| `learning_rate` |  | required |" in key_page


@pytest.mark.parametrize(("section", "room"), docs_pages.NAMED.items())
def test_every_plugin_is_listed_with_its_keys(key_page, section, room):
    own = part(key_page, f"`{section}`, by its `name`")
    rows = re.findall(r"^\| `(\w+)` \|", own, re.M)
    assert rows == ["name", *conf.room(room)]  # the first is the table's head
    assert "`name`" in own.partition("|")[0]


def test_keys_of_one_plugin_stand_beside_it(key_page):
    own = part(key_page, "`adapter`, by its `name`")
    [line] = [line for line in own.splitlines() if line.startswith("| `lora` |")]
    for name in ("alpha", "dropout", "rank"):
        assert f"`{name}`" in line.rpartition(" | ")[2]


def test_every_message_of_an_error_is_listed():
    page = docs_pages.errors()
    for text in (
        "- `steps: {got}; expected a value; pass --config.steps=... or --config.epochs=..., one of",
        "*ftjax/run/config.py*",
    ):
        assert text in page
    raised = sum(
        path.read_text().count("raise ValueError(") for path in (ROOT / "ftjax").glob("*/**/*.py")
    )
    listed = sum(line.startswith("- `") for line in page.splitlines())
    assert 0.7 * raised < listed <= raised  # the rest pass on a message that is made elsewhere


def test_a_message_with_backticks_stays_code():
    assert docs_pages._code("got `x`") == "`` got `x` ``"
    assert docs_pages._code("got  x\n") == "`got x`"


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"[\w./]+\.md", nav)
    pages = {p.name for p in (ROOT / "docs").glob("*.md")} | docs_pages.pages().keys()
    assert sorted(listed) == sorted(pages)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder], cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_builds_strictly_and_has_the_api(site):
    html = (site / "reference" / "api.html").read_text()
    for name in ("train", "load", "generate", "evaluate"):
        assert f'id="ftjax.api.{name}"' in html
    assert 'id="ftjax.adapters.lora.make"' in (site / "reference" / "adapters.html").read_text()
    assert not list((ROOT / "docs").glob("reference"))  # made pages are not left in the docs


def test_the_site_needs_no_network(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 20
    found = {p.name: hits for p in pages if (hits := OUTSIDE.findall(p.read_text()))}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://x.org/a.js">', '<link rel="stylesheet" href="https://x.org/a.css">',
        "src: url(https://x.org/f.woff)", '<img alt="" src=https://x.org/i.png>',
    ],
)  # fmt: skip
def test_the_pattern_finds_what_comes_from_outside(text):
    assert OUTSIDE.search(text)
