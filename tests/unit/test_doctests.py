"""The examples in docstrings do what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import mind_dist

_PACKAGE = Path(mind_dist.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts)
    for path in _PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_do_what_they_say(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed
