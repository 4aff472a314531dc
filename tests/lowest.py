"""Constraints of the lowest versions that a pyproject.toml admits, but for torch: lowest.py pyproject.toml."""

import re
import sys
import tomllib
from pathlib import Path

with Path(sys.argv[1]).open("rb") as file:
    dependencies = tomllib.load(file)["project"]["dependencies"]
for line in dependencies:
    name, lowest = re.match(r"([\w-]+)>=([\d.]+)", line).groups()
    if name != "torch":
        print(f"{name}=={lowest}" + (".*" if lowest.count(".") < 2 else ""))
