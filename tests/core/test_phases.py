import io
import sys

import pytest

from ftjax.core import phases


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_elsewhere_a_phase_is_a_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with phases.named("loading weights"):
        assert sys.stderr.getvalue() == "loading weights\n"
    assert sys.stderr.getvalue() == "loading weights\n"


def test_on_a_terminal_it_goes_when_it_is_over(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = []
    with pytest.raises(KeyError), phases.named("compiling"):
        raise KeyError(shown.append(sys.stderr.getvalue()))
    assert shown[0].endswith("compiling ...")
    assert sys.stderr.getvalue().endswith(phases.CLEAR)


def test_one_process_of_several_speaks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(phases.processes, "is_first", lambda: False)
    with phases.named("compiling"):
        assert sys.stderr.getvalue() == ""
