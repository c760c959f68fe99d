"""Progress: lines in a file, a bar on a terminal."""

import logging
import sys

import pytest

from selfie_tf.training.progress import ProgressLog

POINT = {
    "step": 30,
    "loss": 1.23456,
    "patch_accuracy": 0.5,
    "learning_rate": 0.01,
    "images_per_second": 128.0,
}


@pytest.fixture
def root_handlers():
    """The handlers of the root logger, before and after."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield before
    assert root.handlers == before


def test_in_a_file_each_log_point_is_a_line(caplog, monkeypatch, root_handlers):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    progress = ProgressLog(steps=100, step=20, metrics=["patch_accuracy"])
    with caplog.at_level(logging.INFO):
        progress.advance(30)
        progress.report(POINT, steps_per_second=2.0)
    progress.close()
    assert caplog.messages == [
        "step 30/100  loss 1.2346  patch accuracy 0.500  lr 0.01  2.00 steps/s  128 images/s  "
        "0d 00:00:35 left"
    ]


def test_on_a_terminal_there_is_a_bar_and_no_line(caplog, capsys, monkeypatch, root_handlers):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = ProgressLog(steps=100, step=20, metrics=["patch_accuracy"])
    progress.advance(30)
    progress.report(POINT, steps_per_second=2.0)
    progress.close()
    progress.close()  # also twice, as after an error
    bar = capsys.readouterr().err
    assert "30/100" in bar and "loss 1.2346, patch accuracy 0.500, 128 images/s" in bar
    assert not caplog.messages


def test_all_metrics_that_it_is_given_are_shown(caplog, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    progress = ProgressLog(100, 0, ["patch_accuracy", "instance_loss"])
    with caplog.at_level(logging.INFO):
        progress.report({**POINT, "instance_loss": 4.5}, 2.0)
    progress.close()
    (line,) = caplog.messages
    assert "  loss 1.2346  patch accuracy 0.500  instance loss 4.500  lr 0.01  " in line
