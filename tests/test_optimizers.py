import math

import numpy as np
import pytest

from selfie_tf.optimizers import make_optimizer, warmup_cosine
from selfie_tf.training import last_metrics


@pytest.mark.parametrize("warmup", [0, 100])
def test_warmup_is_linear_and_the_rest_half_a_cosine(warmup):
    schedule = warmup_cosine(0.4, 1000, warmup)
    for step in (0, 1, 50, 99, 100, 101, 550, 999, 1000):
        if step < warmup:
            expected = 0.4 * step / warmup
        else:
            expected = 0.2 * (1 + math.cos(math.pi * (step - warmup) / (1000 - warmup)))
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5, atol=1e-7)


def test_sgd_is_nesterov():
    config = make_optimizer("sgd", 0.1, momentum=0.8).get_config()
    assert config["nesterov"] and config["momentum"] == 0.8 and not config["weight_decay"]
    with pytest.raises(ValueError, match="'adma' is not known"):
        make_optimizer("adma", 0.1)


def test_last_metrics_weigh_log_points_by_their_steps():
    points = [
        {"step": 40, "window": 40, "loss": 9.0, "patch_accuracy": 0.0},
        {"step": 80, "window": 40, "loss": 2.0, "patch_accuracy": 0.5},
        {"step": 90, "window": 10, "loss": 1.0, "patch_accuracy": 1.0},
    ]
    result = last_metrics(points, ("loss", "patch_accuracy"), 90, 50)
    assert result == {"loss": 1.8, "patch_accuracy": 0.6, "averaged_steps": 50}
