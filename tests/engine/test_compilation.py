"""Options of the compiler, of which another version of XLA may know only some."""

import logging

import pytest

from streamcls.engine import compilation, compiler_options


def test_an_option_that_is_gone_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = compiler_options()
    monkeypatch.setitem(compilation._CPU_OPTIONS, "xla_cpu_of_another_year", "1")
    compiler_options.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert compiler_options() == known
    compiler_options.cache_clear()
    assert "xla_cpu_of_another_year" in caplog.text
