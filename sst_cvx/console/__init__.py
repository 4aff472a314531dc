"""The command line, ``sst-cvx``: certify, describe and time structures of one's own.

sst-cvx check sets.py:team                        # a table; exit status 1 where a check failed
sst-cvx describe "polytopes:KSubset(20, 5)"       # which path answers for each regularizer, why, and what it costs
sst-cvx bench sets.py:team --batch 32             # its paths beside plain cvxpylayers
sst-cvx info                                      # versions, devices, engines
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sst_cvx.console import commands, targets

_TARGET = """module:name or file.py:name of a structure, a class or a function that makes one; with arguments that are
literals if it needs any: "polytopes:KSubset(20, 5)\""""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0, 1 where a check failed, 2 for a command line that cannot be served."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except targets.TargetError as error:
        print(f"sst-cvx: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "sst-cvx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found = parser.add_subparsers(required=True, metavar="COMMAND")
    check = _command(found, "check", commands.check, "certify a structure and its paths against references")
    check.add_argument("--temperature", type=_positive, nargs="+", default=[1.0, 0.3, 0.1])
    check.add_argument("--seed", type=int, default=0, help="of the random utilities")
    _command(found, "describe", commands.describe, "which path answers for each regularizer, why, and its cost")
    bench = _command(found, "bench", commands.bench, "time its paths beside plain cvxpylayers")
    bench.add_argument("--batch", type=_count, default=32)
    bench.add_argument("--temperature", type=_positive, default=1.0)
    info = found.add_parser("info", help="versions, devices, engines")
    info.set_defaults(run=commands.info)
    info.add_argument("--json", action="store_true", help="one object of JSON instead of a table")
    return parser


def _command(found, name: str, run, words: str) -> argparse.ArgumentParser:
    """A command about a structure."""
    made = found.add_parser(name, help=words, description=words)
    made.set_defaults(run=run)
    made.add_argument("target", help=_TARGET)
    made.add_argument("--regularizer", nargs="+", choices=list(targets.REGULARIZERS), help="default: all that apply")
    made.add_argument(
        "--parameter",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="values of the hull's parameters, as JSON: budget=1.5 capacity=[0.5,1]",
    )
    made.add_argument("--json", action="store_true", help="one object of JSON instead of a table")
    return made


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, got {text!r}.")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}.")
    return value
