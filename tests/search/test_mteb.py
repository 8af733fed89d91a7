"""The encoder of mteb; what needs that library is in `tests/extra/check_mteb.py`."""

import importlib.util

import pytest


@pytest.mark.skipif(importlib.util.find_spec("mteb") is not None, reason="mteb is installed")
def test_without_its_library_it_says_what_to_install():
    with pytest.raises(ImportError, match=r"pip install 'transformers-ila\[mteb\]'"):
        import transformers_ila.search.mteb  # noqa: F401
