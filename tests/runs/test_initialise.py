"""`init_from`: the network and the weights of a pretrained run come along."""

import copy
import dataclasses
import json
import logging

import numpy as np
import pytest

from selfie_tf.config import FinetuneConfig, PatchFormerConfig
from selfie_tf.data.source import IndexedSource
from selfie_tf.errors import UserError
from selfie_tf.evaluation.export import export
from selfie_tf.training.build import build_classifier, build_pretrainer
from selfie_tf.training.initialise import (
    _warn_of_overlap,
    initialise_classifier,
    initialise_pretrainer,
    take_network,
)
from selfie_tf.training.load import LoadedRun, load_pretrained
from selfie_tf.training.pretrain import pretrain

from helpers import make_tiny_config


@pytest.fixture(scope="module")
def tiny():
    """A config of two steps."""
    config = make_tiny_config()
    config.train.steps, config.optimizer.warmup_steps = 2, 1
    config.data.eval_images = 16
    return config


@pytest.fixture(scope="module")
def parent(tiny, tmp_path_factory):
    """A finished run whose network no config file has."""
    workdir = tmp_path_factory.mktemp("runs") / "parent"
    pretrain(copy.deepcopy(tiny), str(workdir))
    return str(workdir)


def finetune_config(parent, **top):
    config = FinetuneConfig()
    config.data.name, config.init_from = "builtin:shapes", parent
    for name, value in top.items():
        setattr(config, name, value)
    config.set_explicit(())  # as a config file's values are
    return config


def test_finetuning_takes_the_network_of_the_run(parent, tiny, tmp_path):
    config = finetune_config(parent)
    taken = take_network(config, str(tmp_path))
    assert (taken.model.width, taken.model.num_heads, taken.model.mlp_dim) == (2, 2, 16)
    assert taken.model.attention_layers == 1
    assert (taken.data.image_size, taken.patches.size) == (16, 4)
    assert taken.model.dropout_rate == config.model.dropout_rate  # no matter of the network
    assert config.model.width == 64  # the argument is not changed
    taken.validate()


@pytest.mark.parametrize(
    "head, section, key, value, fits",
    [
        ("resnet50", "model", "width", 4, False),
        ("resnet50", "model", "stem", "imagenet", False),
        ("resnet50", "data", "image_size", 32, True),  # convolutions take any size
        ("resnet50", "model", "num_heads", 8, True),  # of no use to it
        ("resnet36_attention", "model", "num_heads", 8, False),  # no tensor would show it
        ("resnet36_attention", "model", "position", "factorized", False),
        ("resnet36_attention", "patches", "size", 8, False),
    ],
)
def test_what_the_user_sets_stays_or_is_an_error_that_names_both(
    head, section, key, value, fits, parent, tiny, tmp_path
):
    config = finetune_config(parent)
    config.model.head = head
    setattr(getattr(config, section), key, value)
    if fits:
        taken = take_network(config, str(tmp_path))
        assert getattr(getattr(taken, section), key) == value
        return
    theirs = getattr(getattr(tiny, section), key)
    with pytest.raises(UserError) as error:
        take_network(config, str(tmp_path))
    message = str(error.value)
    assert f"{section}.{key} is {theirs} there, and you set {value}" in message
    assert parent in message and f"leave --config.{section}.{key} out" in message


def test_setting_what_the_run_has_is_no_error(parent, tmp_path):
    config = finetune_config(parent)
    config.model.width = 2
    assert take_network(config, str(tmp_path)).explicit_keys() == {"model.width"}


def test_without_init_from_the_config_is_left_alone(tmp_path):
    config = finetune_config("")
    assert take_network(config, str(tmp_path)) is config


def test_a_run_that_has_begun_resumes_without_the_pretrained_one(parent, tmp_path):
    taken = take_network(finetune_config(parent), str(tmp_path))
    gone = str(tmp_path / "gone")
    values = {**dataclasses.asdict(taken), "init_from": gone}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert take_network(finetune_config(gone), str(tmp_path)).model.width == 2
    with pytest.raises(UserError, match="other: no config.json in it"):
        take_network(finetune_config(str(tmp_path / "other")), str(tmp_path))


def test_from_scratch_is_the_same_network_with_random_weights(parent, tmp_path):
    config = take_network(finetune_config(parent, from_scratch=True), str(tmp_path))
    model = build_classifier(config, 10)
    before = [v.numpy() for v in model.weights]
    note = initialise_classifier(config, model)
    assert note == {"from": "", "step": 0, "config": None} and config.model.width == 2
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.name)


def of_its_own_data(tiny, parent):
    config = copy.deepcopy(tiny)
    config.init_from = parent
    return config


@pytest.mark.parametrize("kind", ["run", "export"])
def test_pretraining_continues_from_all_weights(kind, parent, tiny, tmp_path):
    path = parent
    if kind == "export":
        path = str(tmp_path / "export")
        export(parent, path)
    config = of_its_own_data(tiny, path)
    config.optimizer.learning_rate = 0.0  # what is loaded is there at the end
    result = pretrain(config, str(tmp_path / "run"))
    mine, theirs = load_pretrained(str(tmp_path / "run")), load_pretrained(parent)
    for variable, expected in zip(
        mine.trainable_variables, theirs.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(variable, expected, err_msg=variable.name)
    assert mine.optimizer.iterations == 2  # a schedule of its own
    note = result["initialisation"]
    assert (note["from"], note["step"]) == (path, 2)
    stored = json.loads((tmp_path / "run" / "data.json").read_text())["fingerprint"]
    assert note["fingerprint"] == stored  # the images of both are the built-in ones
    assert note["config"]["method"] == "selfie"


def test_moving_statistics_come_along_and_dropout_counts_do_not(parent, tiny):
    model = build_pretrainer(tiny)
    source = IndexedSource([1], [2])
    note = initialise_pretrainer(of_its_own_data(tiny, parent), model, source, "")
    theirs = {v.name: v.numpy() for v in load_pretrained(parent).weights}
    moving = [v for v in model.weights if "moving_" in v.name]
    assert moving
    for variable in moving:
        np.testing.assert_array_equal(variable, theirs[variable.name], err_msg=variable.name)
    calls = [v for v in model.weights if "/calls" in v.name]
    assert calls and all(v.numpy() == 0 for v in calls)
    assert any(theirs[v.name] == 2 for v in calls)
    assert note["fresh"] == note["unused"] == []


def test_another_method_does_not_fit(parent):
    config = PatchFormerConfig()
    config.init_from = parent
    with pytest.raises(UserError, match="is a run of selfie, and this config is of patchformer"):
        initialise_pretrainer(config, None, None, "")


class _Source(IndexedSource):
    """Images named by letters."""

    def __init__(self, train, held_out, location="there", fingerprint=""):
        super().__init__(list(train), list(held_out))
        self.location, self.fingerprint = location, fingerprint

    def train_ids(self):
        return self._train

    def held_out_ids(self):
        return self._held_out


@pytest.mark.parametrize(
    "mine, expected",
    [
        (_Source("ad", "bcd"), "2 of 3 held-out images were trained on by the parent"),
        (_Source("ad", "bcd", location="elsewhere"), None),
        (_Source("abc", "xyz"), None),
        (_Source("ad", "bcd", fingerprint="same"), None),
    ],
)
def test_held_out_images_that_were_trained_on_are_warned_of(
    mine, expected, tiny, caplog, monkeypatch
):
    theirs = _Source("abc", "xyz")
    monkeypatch.setattr("selfie_tf.training.initialise.make_source", lambda *_: theirs)
    parent = LoadedRun(None, tiny, (), 2, "the parent", "same")
    with caplog.at_level(logging.WARNING):
        _warn_of_overlap(parent, mine, "")
    assert [expected in m for m in caplog.messages] == ([True] if expected else [])
