"""What check-tpu makes of a program, and of the compiler's report: see runs/test_lowering.py."""

import importlib.util
import types

import pytest
import tensorflow as tf

from selfie_tf.benchmarks.tpu import check, report
from selfie_tf.benchmarks.tpu.lowering import Lowered, find_problems
from selfie_tf.errors import UserError

pytestmark = pytest.mark.skipif(
    tf.__version__.startswith("2.15"),
    reason="TensorFlow 2.15 lowers no all-reduce; TPUs are trained on with newer ones",
)


REASON = "RESOURCE_EXHAUSTED: Ran out of memory on HBM"
ABOUT = {"topology": "v3:2x2", "chip": "TPU v3", "cores": 8, "hbm_bytes": 2**34}


@pytest.mark.parametrize(
    "changed, problem",
    [
        ({}, None),
        ({"updated_in_place": 1}, "only 1 of 376 variables are updated in place"),
    ],
)
def test_what_the_compiler_made_of_the_step(changed, problem, monkeypatch):
    compiled = {"argument_bytes": 2**30, "new_output_bytes": 2**31, "temporary_bytes": 2**32}
    compiled |= {"program_bytes": 2**33 - 5, "all_reduces": 1, "updated_in_place": 376}
    monkeypatch.setattr(check, "_in_child", lambda *_: {**compiled, **changed})
    lowered = Lowered(lambda: b"", 171, 376, 4096, {"targets": "uint8"}, [])
    result = check.check(types.SimpleNamespace(lower=lambda batch: lowered), ABOUT, 4)
    assert result["headroom_bytes"] == 2**34 - 2**30 - 2**31 - 2**32 - 2**33 + 5
    if problem is None:
        assert result["status"] == check.OK
    else:
        assert result["status"] == check.PROBLEMS and problem in result["problems"][0]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("  %a = f32[<=8,3]{1,0} slice(f32[8,3]{1,0} %b)", "dynamic shapes f32[<=8,3]"),
        ("  %a = f64[8]{0} add(f64[8]{0} %b, f64[8]{0} %c)", "float64"),
        ("  %a = (f32[8]{0}, token[]) infeed(token[] %b)", "host: infeed"),
        ("  %a = token[] outfeed(f32[8]{0} %c, token[] %b)", "host: outfeed"),
        ('  %a = f32[8]{0} custom-call(%b), custom_call_target="Mine"', "custom calls"),
        ("  %a = u64[] rng-get-and-update-state(), delta=1", "random numbers"),
        ("  %a = f32[8]{0} add(f32[8]{0} %b, f32[8]{0} %c)", None),
    ],
)
def test_problems_in_hlo(line, expected):
    problems = find_problems(f"HloModule x\n\nENTRY main {{\n{line}\n}}\n")
    assert len(problems) == (expected is not None)
    assert expected is None or expected in problems[0]


@pytest.mark.parametrize(
    "limit, fixed, begin, fits, refused",
    [
        (200, 0, 64, 200, 208),
        (207, 40, 64, 200, 208),
        (63, 0, 64, 56, 64),
        (8, 0, 23, 8, 16),
        (33, 0, 45, 32, 40),
        (8, 0, 64, 8, 16),
        (5, 0, 64, None, 8),
        (4000, 300, 64, 3768, 4248),  # at most a sixteenth below and above the limit
    ],
)
def test_the_largest_batch(limit, fixed, begin, fits, refused, monkeypatch):
    """Of images that take a byte each, and so many that something else takes."""
    tried = []

    def fake(step, about, batch):
        tried.append(batch)
        if batch > limit:
            return {**about, "batch_per_core": batch, "status": check.REJECTED, "reason": REASON}
        sizes = {"temporary_bytes": batch + fixed, "headroom_bytes": limit - batch}
        return {**about, "batch_per_core": batch, "status": check.OK, **sizes}

    monkeypatch.setattr(check, "check", fake)
    result = check.largest(None, ABOUT, begin)
    assert len(tried) == len(set(tried)) <= 12 and all(batch % 8 == 0 for batch in tried)
    if fits is None:
        assert result["status"] == check.REJECTED and result["batch_per_core"] == refused
    else:
        found = result["batch_per_core"], result["refused_batch_per_core"]
        assert fits <= found[0] <= limit < found[1] <= refused


def test_the_search_makes_headway_where_the_compiler_saves_memory(monkeypatch):
    """It uses more than it has to, as long as there is enough."""
    tried = []

    def fake(step, about, batch):
        tried.append(batch)
        if batch > 2000:
            return {"batch_per_core": batch, "status": check.REJECTED, "reason": REASON}
        sizes = {"temporary_bytes": 1000, "headroom_bytes": 10}
        return {"batch_per_core": batch, "status": check.OK, **sizes}

    monkeypatch.setattr(check, "check", fake)
    result = check.largest(None, ABOUT, 512)
    assert 2000 / (1 + 1 / 16) <= result["batch_per_core"] <= 2000 and len(tried) < 12


def test_the_search_ends_at_what_no_batch_can_mend(monkeypatch):
    def fake(step, about, batch):
        return {**about, "batch_per_core": batch, "status": check.REJECTED, "reason": "PyFunc"}

    monkeypatch.setattr(check, "check", fake)
    assert check.largest(None, ABOUT, 64)["batch_per_core"] == 64


def test_the_search_keeps_the_best_when_the_compiler_dies(monkeypatch):
    def fake(step, about, batch):
        if batch > 64:
            reason = "the compiler ended with code -9"
            return {"batch_per_core": batch, "status": check.REJECTED, "reason": reason}
        sizes = {"temporary_bytes": 100, "headroom_bytes": 1000}
        return {"batch_per_core": batch, "status": check.OK, **sizes}

    monkeypatch.setattr(check, "check", fake)
    result = check.largest(None, ABOUT, 64)
    assert (result["batch_per_core"], result["refused_batch_per_core"]) == (64, 72)


def test_without_the_compiler_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="make check-tpu"):
        check.describe("v3:2x2")


def test_the_table_has_a_row_for_each_check():
    sizes = ("hbm", "argument", "temporary", "program", "headroom")
    fits = {**ABOUT, "status": check.OK, "batch_per_core": 64, "gflop": 61.5 * 300}
    fits |= {f"{size}_bytes": (i + 1) * 2**30 for i, size in enumerate(sizes)}
    fits |= {"all_reduces": 1, "all_reduces_lowered": 99}
    fits |= {"updated_in_place": 300, "variables_updated": 301}
    refused = {**ABOUT, "status": check.REJECTED, "batch_per_core": 65, "reason": "too large"}
    run_ = {"config": "configs/x.py", "batch_size": 512, "steps": 7200, "checks": [fits, refused]}
    head, rule, first, second = report.table([run_]).splitlines()
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|")
    # 18 450 GFLOP at 0.3 of 61.5 TFLOP/s take a second.
    assert first == (
        "| x, 512 | v3:2x2 | 64 | 1.00 | 2.00 | 3.00 | 4.00 | 5.00 | 99 / 1 | 300 of 301 | 18450 | "
        "1000 ms | 2.0 h | 8.0 |"
    )
    assert "rejected: too large" in second
