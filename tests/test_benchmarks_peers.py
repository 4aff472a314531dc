"""``python -m benchmarks.peers`` without any peer: what it counts as a win, as an error and as too long."""

import math
import time

import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("tqdm")

from benchmarks.peers.__main__ import MODULES, lines_of, main, summary, verdict
from benchmarks.peers.race import Contest, Measured, Result, Row, TooLong, by_torch, limited, normal, race


def contest(*peers, truth=None, **options):
    return Contest(normal(4), by_torch("ours", lambda u: u.softmax(-1)), list(peers), truth, **options)


def slow(u):
    spin(0.002)
    return u.softmax(-1)


def spin(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


def test_the_fastest_peer_of_the_same_accuracy_is_the_rival():
    wrong = by_torch("wrong", lambda u: u.softmax(-1) + 1e-3)  # of the right gradient
    same = by_torch("same", lambda u: u.exp() / u.exp().sum(-1, keepdim=True))
    forward, both = race("row", contest(wrong, by_torch("slow", slow), same, truth=lambda u: u.softmax(-1)), 3, 0.02, 5)
    assert forward.rival.name == both.rival.name == "same"
    assert not forward.backward
    assert both.backward
    assert {p.name: p.error > 1e-5 for p in forward.peers} == {"wrong": True, "slow": False, "same": False}
    times = {p.name: p.seconds for p in forward.peers}
    assert times["slow"] > max(times["same"], forward.ours.seconds)
    assert times["slow"] >= 0.002
    assert forward.ratio == forward.ours.seconds / times["same"]


def test_gradients_are_those_of_the_cotangent():
    doubled = by_torch("doubled", lambda u: 2 * u.softmax(-1) - u.softmax(-1).detach())  # values agree, gradients not
    forward, both = race("row", contest(doubled), 2, 0.01, 5)
    assert forward.rival is not None
    assert both.rival is None


def test_one_that_raises_or_never_ends_is_named_and_counts_for_nothing():
    def endless(u):
        while True:
            u = u + 0

    def broken(u):
        raise ArithmeticError("no answer")

    found = race("row", contest(by_torch("endless", endless), by_torch("broken", broken)), 1, 0.01, 0.05)
    assert all(r.rival is None and verdict(r, contest()) == "ours (no peer)" for r in found)
    assert [p.failed.split(":")[0] for p in found[0].peers] == ["TooLong", "ArithmeticError"]
    assert [p.name for p in found[1].peers] == ["broken"]  # what was too long forward is not tried with backward


@pytest.mark.parametrize(("seconds", "expected"), [(0.9, "ours"), (1.1, "within 1.2"), (1.3, "PEER")])
def test_verdicts(seconds, expected):
    found = Result("row", 1, False, Measured("ours", seconds, None), [Measured("peer", 1.0, 0.0)])
    assert verdict(found, contest()) == expected


def test_summary_counts_lines():
    said = summary(["ours", "ours (no peer)", "within 1.2", "within 4", "PEER", "failed"])
    assert said == "6 lines: ahead in 2 (33%), within the bound in 2, missed in 2."


def test_a_build_that_fails_is_a_line():
    def make():
        raise ValueError("no such set")

    lines, verdicts, _ = lines_of(Row("row", make), [1], 0.01, 5)
    assert verdicts == ["failed"]
    assert "no such set" in lines[0][3]


def test_the_limit_is_of_cpu_time_and_ends():
    with pytest.raises(TooLong), limited(0.02):
        spin(60)
    spin(0.04)
    start = time.process_time()
    while (passed := time.process_time() - start) == 0:
        pass
    assert passed < 5e-4  # the clock is as fine as before


def test_names_are_unique_and_only_selects(capsys):
    names = [row.name for module in MODULES for row in module.rows()]
    assert len(set(names)) == len(names)
    main(["--list", "--only", "soft ranks, n = 10"])
    listed = capsys.readouterr().out.splitlines()
    assert listed == [name for name in names if "soft ranks, n = 10" in name]
    assert listed == ["soft ranks, n = 10", "soft ranks, n = 100"]


def test_the_table_is_written(tmp_path, capsys):
    file = tmp_path / "table.md"
    threads = torch.get_num_threads()
    try:
        main(["--only", "softmax, n = 20", "--batches", "2", "--seconds", "0.01", "--markdown", str(file)])
    finally:
        torch.set_num_threads(threads)
    text = file.read_text()
    short, *rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| softmax, n = 20 |")]
    assert short[1] == "torch.softmax"
    assert short[2] == f"{rows[0][8]} / {rows[1][8]} |"
    assert [row[2] for row in rows] == ["forward", "+ backward"]
    assert all(float(row[3]) > 0 and row[5] == "torch.softmax" and math.isfinite(float(row[8])) for row in rows)
    assert float(rows[0][4]) < 1e-15
    assert "2 lines: ahead in" in text
    assert "2 lines: ahead in" in capsys.readouterr().out
