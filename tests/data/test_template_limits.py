"""What templates, patterns and packed files from elsewhere may cost."""

import gzip
import json

import pytest

from ftjax.data import chat, template_limits
from ftjax.data.sources import jsonl
from ftjax.sampling import rewards

ASKED = [{"role": "user", "content": "Hi."}]


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 999999999 }}",
        "{{ '%0999999999d' % 1 }}",
        "{{ 9 ** 999999999 }}",
        "{{ strftime_now('%A' * 99999999) }}",
        "{% set ns = namespace(s='xxxxxxxx') %}"
        "{% for a in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 1 / 0 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages[7].content.x.y }}",
    ],
)
def test_a_template_that_does_too_much_is_one_line(source):
    with pytest.raises(chat.TemplateError, match=r"^the chat template refuses.*[^\n]+$"):
        chat.Template(source).render(ASKED)


def test_today_is_the_day_of_the_config():
    source = "{{ strftime_now('%d %b %Y') }}"
    assert chat.Template(source).render(ASKED) == "26 Jul 2024"
    assert chat.Template(source, date="2025-03-09").render(ASKED) == "09 Mar 2025"
    with pytest.raises(ValueError, match=r"data\.date: got 'today'; expected YYYY-MM-DD"):
        chat.Template(source, date="today")


def test_loops_within_the_limit_render():
    source = "{% for m in messages %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}"
    assert chat.Template(source).render(ASKED) == "1Hi."
    assert chat.Template(source).render([]) == "none"
    assert template_limits.MAX_TURNS >= 10**5


def test_a_pattern_that_would_not_end(monkeypatch):
    monkeypatch.setattr(rewards, "MAX_SECONDS", 0.05)
    score = rewards.pattern(regex="(a|aa)+c?")
    assert score("aac", {}) == 1.0
    with pytest.raises(ValueError, match=r"takes over 0\.05 s"):
        score("a" * 60 + "x" + "c", {})


def test_a_file_that_unpacks_to_far_more(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"prompt": "a" * 2**25}).encode()))
    with pytest.raises(ValueError, match=r"bomb\.jsonl\.gz: got over \d+ bytes out of"):
        jsonl.make(path=str(path))
