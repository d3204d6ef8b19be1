"""Compiled programs are kept where a run says, and nobody's choice is overruled."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ftjax.core import compile_cache

ENABLED = "jax_enable_compilation_cache"
OURS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", ENABLED)


@pytest.fixture(autouse=True)
def as_before():
    before = {name: getattr(jax.config, name) for name in OURS}
    # A test of joined processes may have run in this one, which switches it off for good.
    jax.config.update(ENABLED, True)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compiled(number):
    """Compile a program that no other test has."""
    return jax.jit(lambda x: jnp.sin(x) * number).lower(jnp.ones(3)).compile()


def test_a_folder_is_used_and_none_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "WORTH_S", 0.0)
    compile_cache.use(str(tmp_path / "new"))
    compiled(3.25)
    kept = len(list((tmp_path / "new").iterdir()))
    assert kept
    compile_cache.use("")
    assert jax.config.jax_compilation_cache_dir is None
    compiled(4.25)
    assert len(list((tmp_path / "new").iterdir())) == kept


def test_auto_is_the_user_s_folder_unless_one_was_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_cache.use(str(tmp_path / "chosen"))
    compile_cache.use("auto")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "chosen")
    compile_cache.use("")
    compile_cache.use("auto")
    assert jax.config.jax_compilation_cache_dir == str(compile_cache.default())
    assert compile_cache.default().parent == tmp_path / "ftjax"
    assert compile_cache.default().is_dir()


def test_a_folder_that_cannot_be_written_to_is_an_error_where_it_was_asked_for(
    tmp_path, monkeypatch, capsys
):  # fmt: skip
    (tmp_path / "ftjax").write_text("a file")
    with pytest.raises(ValueError, match=r"compile_cache: got .* expected a directory of yours"):
        compile_cache.use(str(tmp_path / "ftjax" / "x"))
    compile_cache.use("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_cache.use("auto")
    assert "programs are compiled anew" in capsys.readouterr().err
    assert jax.config.jax_compilation_cache_dir is None


def test_processes_that_are_joined_on_cpus_stay_without(tmp_path, monkeypatch):
    """They have switched the cache off; a folder does not switch it on."""
    monkeypatch.setattr(compile_cache, "WORTH_S", 0.0)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        compile_cache.use(str(tmp_path / "new"))
        compiled(5.25)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not list((tmp_path / "new").iterdir())
