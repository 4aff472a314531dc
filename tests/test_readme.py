"""The README's code runs as written, top to bottom."""

import pathlib
import re

from sst_cvx.paths.fast import registry

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_readme(capsys, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["q"].rsample().shape == (32, 6)
    assert names["y"].sum(-1).max() <= 2.5 + 1e-5  # the knapsack's capacity
    assert "FAILED" in capsys.readouterr().out  # the planted mistake of the last example
