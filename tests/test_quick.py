"""What quick.py names is there."""

from pathlib import Path

import pytest

from tests.quick import ONE_IN

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", ONE_IN)
def test_names_are_those_of_tests(file):
    text = (HERE / file).read_text(encoding="utf-8")
    assert not [name for name in ONE_IN[file] if f"def {name}(" not in text]
    assert all(share == 0 or share > 1 for share in ONE_IN[file].values())
