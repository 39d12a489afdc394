"""Compiled programs are kept where only their owner can put any."""

import stat

import jax
import pytest

from jaxsft.devices import compile_cache
from jaxsft.errors import ConfigError

FIELDS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def unset():
    before = {name: getattr(jax.config, name) for name in FIELDS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_directory_is_private_and_one_for_this_machine(unset, tmp_path):
    open_to_all = tmp_path / "compiled"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    directory = compile_cache.use(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(directory)
    assert directory.parent == open_to_all and f"jax-{jax.__version__}-" in directory.name
    for path in (open_to_all, directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_another_processor_has_another_directory(unset, tmp_path, monkeypatch):
    here = compile_cache.use(tmp_path)
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "cpuinfo").write_text("flags : fpu no_such_instruction\n")
    monkeypatch.setattr(compile_cache, "CPU_INFO", tmp_path / "cpuinfo")
    assert compile_cache.use(tmp_path) != here


def test_a_link_that_somebody_left_there_is_refused(unset, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "compiled").symlink_to(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=f"{tmp_path / 'compiled'}: .*not a directory of yours"):
        compile_cache.use(tmp_path)


def test_the_users_own_place_stays(unset, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert compile_cache.use(tmp_path / "not there") == tmp_path
    assert not list(tmp_path.iterdir())
