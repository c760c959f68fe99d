"""Every mistake: nonzero exit, one line that names the culprit and the way out, no traceback."""

import json
import socket

import numpy as np
import pytest
from PIL import Image

from helpers import (
    ROOT,
    TINY,
    TINY_FINETUNE,
    TINY_FINETUNE_PATCHFORMER,
    TINY_PATCHFORMER,
    run,
    start,
)


def fails(*flags, env=None, command="bin/pretrain.py", code=1):
    """Runs the command, checks how it fails, and returns the line."""
    exit_code, _, err = run(*flags, env=env, command=command)
    assert exit_code == code, err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and err.splitlines()[-1] == errors[0], err
    return errors[0]


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--config.train.stepz=3"], ["train.stepz", "did you mean train.steps?"]),
        (["--config.steps=3"], ["unknown config key steps", "train.steps"]),
        (["--config.grid=3"], ["unknown config key grid"]),
        (["--config="], ["--config=", "no such file", "configs/quickstart.py"]),
        (["--config=configs"], ["--config=configs", "no such file"]),
        (["--config.model.width=100000000"], ["model.width=100000000", "1024"]),
        (["--config.patches.size=1", "--config.data.image_size=128"], ["16384 patches", "4096"]),
        (["--config.patches.size=1", "--config.data.image_size=8"], ["data.image_size=8", "16"]),
        (["--config.trian.steps=3"], ["trian.steps", "did you mean train.steps?"]),
        (["--config.train.steps=many"], ["config.train.steps", "many"]),
        (["--config.train.steps=1.5"], ["config.train.steps", "1.5"]),
        (["--config.optimizer.learning_rate=nan"], ["optimizer.learning_rate=nan"]),
        (["--config.optimizer.learning_rate=-1"], ["optimizer.learning_rate=-1"]),
        (["--config.train.batch_size=0"], ["train.batch_size=0", "at least 1"]),
        (["--config.model.pooling=sum"], ["model.pooling='sum'", "attention, mean, max"]),
        (["--config.data.name=imagenet"], ["data.name='imagenet'", "folder:PATH"]),
        (["--config.data.image_size=30"], ["image_size=30", "patches.size=8", "image_size=24"]),
        (["--config.model.num_heads=3"], ["model.num_heads=3", "128"]),
        (["--config.patches.context_fraction=1"], ["context_fraction=1", "0 target"]),
        (["--config.optimizer.warmup_steps=600"], ["warmup_steps=600", "train.steps=600"]),
        (
            ["--config.train.steps_per_execution=7"],
            ["checkpoint_every=100", "steps_per_execution=7"],
        ),
        (["steps=3"], ["'steps=3'", "--name=value"]),
        (["--confg=x"], ["confg", "--help"]),
        (["--config=configs/nothing.py"], ["configs/nothing.py", "configs/", "quickstart.py"]),
        (["--config.data.name=builtin:cats"], ["builtin:cats", "builtin:shapes"]),
        (["--virtual_devices=3"], ["batch_size=64", "3 replicas", "batch_size=66"]),
        (["--virtual_devices=-1"], ["--virtual_devices=-1"]),
        (["--config.train.batch_size=5001"], ["5000 training images", "batch_size=5001"]),
        (["--config.data.name=folder:/no/such/place"], ["/no/such/place", "no such folder"]),
        (["--config.data.name=tfds:cifar11"], ["tfds:cifar11", "not found"]),
    ],
)
def test_mistakes_in_flags_and_config(flags, expected, tmp_path):
    given = ["--config=configs/quickstart.py", f"--workdir={tmp_path}/run"]
    line = fails(*given, *flags)
    for part in expected:
        assert part in line


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x = (", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("x = 1", "get_config"),
        ("def get_config():\n    return {}", "Config"),
    ],
)
def test_config_files_that_cannot_be_used(text, expected, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    line = fails(f"--config={path}", f"--workdir={tmp_path}/run")
    assert "--config" in line and expected in line


def test_the_config_is_found_from_elsewhere_also_after_a_space(tmp_path):
    line = fails("--config", "configs/quickstart.py", "--config.train.steps=0", "--workdir=x")
    assert "train.steps=0" in line


def test_a_mistake_in_the_data_does_not_tie_the_workdir_to_it(tmp_path):
    fails(*TINY, "--config.data.name=folder:/typo", f"--workdir={tmp_path}")
    assert not (tmp_path / "config.json").exists()


def test_a_missing_workdir_flag():
    assert "--workdir" in fails("--config=configs/quickstart.py")


def test_missing_tfds_data_names_the_quickstart(tmp_path):
    """The default config is the paper's CIFAR-10 run."""
    line = fails(f"--workdir={tmp_path}/run", f"--data_dir={tmp_path}/data")
    for part in ("tfds:cifar10", f"{tmp_path}/data", "--download", "configs/quickstart.py"):
        assert part in line


@pytest.mark.parametrize("files, expected", [([], "no images"), (["a.txt"], "no images")])
def test_folders_without_images(files, expected, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("x")
    line = fails(*TINY, f"--config.data.name=folder:{folder}", f"--workdir={tmp_path}/run")
    assert expected in line and str(folder) in line and ".png" in line


def test_corrupt_images_over_the_budget(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        Image.fromarray(np.full([16, 16, 3], i, np.uint8)).save(folder / f"{i}.png")
        if i % 2:
            (folder / f"{i}.png").write_bytes(b"nothing")
    line = fails(*TINY, f"--config.data.name=folder:{folder}", f"--workdir={tmp_path}/run")
    assert str(folder) in line and "corrupt_budget" in line


def test_a_workdir_of_another_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"train": {"steps": 700, "seed": 3}}))
    line = fails("--config=configs/quickstart.py", f"--workdir={tmp_path}")
    for part in (str(tmp_path), "train.seed (3, now 0)", "train.steps (700, now 600)", "--workdir"):
        assert part in line


def test_a_damaged_config_file_in_the_workdir(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in fails("--config=configs/quickstart.py", f"--workdir={tmp_path}")


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert "--workdir" in fails("--config=configs/quickstart.py", f"--workdir={tmp_path}/file/run")


@pytest.mark.parametrize("name", ["checkpoints", "figures"])
def test_a_file_in_the_way_is_noticed_at_once(name, tmp_path):
    (tmp_path / name).write_text("")
    line = fails(*TINY, f"--workdir={tmp_path}")
    assert "--workdir" in line and name in line


def test_a_workdir_in_use(tmp_path):
    first = start(*TINY, f"--workdir={tmp_path}")
    try:
        while not (tmp_path / "config.json").exists():  # written under the lock
            assert first.poll() is None
        line = fails(*TINY, f"--workdir={tmp_path}")
        assert str(tmp_path) in line and f"process {first.pid}" in line
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize("name", ["local", "node-1", "grpc://127.0.0.1:1"])
def test_an_absent_tpu_is_an_error_within_seconds(name, tmp_path):
    line = fails(*TINY, f"--workdir={tmp_path}", f"--tpu={name}")
    assert f"--tpu={name}" in line and "leave --tpu out" in line


def test_a_tpu_address_that_accepts_and_says_nothing(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        name = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        line = fails(*TINY, f"--workdir={tmp_path}", f"--tpu={name}")
    assert f"--tpu={name}" in line


@pytest.mark.parametrize(
    "value, expected",
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"cluster": {"worker": ["a:1"]}}', "lacks 'task'"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "task.index=1",
        ),
        (
            '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
            "not a list of host:port",
        ),
        (
            '{"cluster": {"worker": ["a:1"], "chief": [1]}, '
            '"task": {"type": "worker", "index": 0}}',
            "cluster.chief is not a list of host:port",
        ),
        (
            '{"cluster": {"worker": ["a:99999"]}, "task": {"type": "worker", "index": 0}}',
            "not a list of host:port",
        ),
        (
            '{"cluster": {"worker": ["a..b:1"]}, "task": {"type": "worker", "index": 0}}',
            "not a list of host:port",
        ),
        (
            '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
            "a:1 is there twice",
        ),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "only chief and worker",
        ),
    ],
)
def test_bad_tf_config(value, expected, tmp_path):
    line = fails(*TINY, f"--workdir={tmp_path}", env={"TF_CONFIG": value})
    assert "TF_CONFIG" in line and expected in line and '"cluster"' in line


def test_debug_shows_the_traceback(tmp_path):
    code, out, err = run(*TINY, "--debug", "--config.data.name=folder:/no", "--workdir=/tmp/x")
    assert code == 1 and "Traceback" in out + err and "error: " in err


def test_help_lists_the_flags():
    code, out, err = run("--help")
    assert code == 1 and "--workdir" in out + err and "Traceback" not in err


def test_every_config_validates_and_says_its_cost():
    import glob
    import runpy

    from selfie_tf.config import FinetuneConfig

    paths = glob.glob(f"{ROOT}/configs/*.py")
    assert len(paths) == 12
    for path in paths:
        namespace = runpy.run_path(path)
        config = namespace["get_config"]()
        config.validate()
        command = "finetune" if isinstance(config, FinetuneConfig) else "pretrain"
        name = f"configs/{path.rpartition('/')[2]}"
        assert f"bin/{command}.py --config={name}" in namespace["__doc__"]
        assert "not measured" in namespace["__doc__"] or "Result:" in namespace["__doc__"]


# Finetuning


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--config.data.label_fracton=3"], ["did you mean data.label_fraction?"]),
        (["--config.data.label_fraction=1.5"], ["data.label_fraction=1.5", "from 0 to 1"]),
        (["--config.data.label_fraction=nan"], ["data.label_fraction=nan"]),
        (["--config.data.label_fraction=0.001"], ["0.001 leaves class 'disc' of 500 images"]),
        (["--config.data.label_fraction=0"], ["leaves class 'disc'"]),
        (
            ["--config.data.labels_per_class=3"],
            ["data.label_fraction and data.labels_per_class exclude each other"],
        ),
        (
            ["--config.data.label_fraction=1", "--config.data.labels_per_class=501"],
            ["labels_per_class=501: class 'disc' has only 500 images"],
        ),
        (
            ["--config.data.label_fraction=1", "--config.data.subset_file=/no/such.json"],
            ["data.subset_file=/no/such.json", "cannot be used"],
        ),
        (["--config.data.test_split=val"], ["data.test_split=val", "train and test"]),
        (["--config.data.validation_fraction=0.95"], ["validation_fraction=0.95", "0.9"]),
        (
            ["--config.data.label_fraction=0.01"],
            ["50 training images", "--config.train.batch_size"],
        ),
        (["--config.model.head=resnet101"], ["model.head='resnet101'", "resnet36_attention"]),
        (
            ["--config.model.head=resnet36_attention", "--config.patches.size=2"],
            ["patches.size=2: the 8x8 feature map", "16x16 grid", "patch_by_patch"],
        ),
        (["--config=configs/quickstart.py"], ["must return a selfie_tf.config.FinetuneConfig"]),
        (["--config.init_from=/no/such/run"], ["/no/such/run: no config.json in it"]),
        (["--config.init_from=/tmp"], ["/tmp: no config.json in it"]),
        (["--config.train.eval_every=0"], ["train.eval_every=0", "at least 1"]),
        (
            ["--config.train.steps_per_execution=20", "--config.train.eval_every=30"],
            ["train.eval_every=30 is not a multiple"],
        ),
        (["--config.data.name=tfds:cifar11"], ["tfds:cifar11", "not found"]),
    ],
)
def test_mistakes_in_finetuning(flags, expected, tmp_path):
    given = ["--config=configs/finetune_quickstart.py", f"--workdir={tmp_path}/run"]
    line = fails(*given, *flags, command="bin/finetune.py")
    for part in expected:
        assert part in line


@pytest.fixture(scope="module")
def pretrained(finished):
    return finished(TINY)


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--config.model.width=3"], "patch_network/stem/conv/kernel is (3, 3, 3, 2) there and"),
        (
            ["--config.model.head=resnet36_attention", "--config.model.num_heads=4"],
            "model.num_heads is 2 there and 4 here; give --config.model.num_heads=2",
        ),
    ],
)
def test_a_pretrained_network_that_does_not_fit(pretrained, flags, expected, tmp_path):
    given = [*TINY_FINETUNE, f"--workdir={tmp_path}", f"--config.init_from={pretrained}"]
    line = fails(*given, *flags, command="bin/finetune.py")
    assert f"init_from={pretrained} does not fit: {expected}" in line


def test_init_from_what_is_no_pretraining(tmp_path):
    run_flags = [*TINY_FINETUNE, "--config.train.steps=5"]
    code, _, err = run(*run_flags, f"--workdir={tmp_path}/a", command="bin/finetune.py")
    assert code == 0, err
    given = [*run_flags, f"--workdir={tmp_path}/b", f"--config.init_from={tmp_path}/a"]
    line = fails(*given, command="bin/finetune.py")
    assert f"{tmp_path}/a is of a finetuning run; give one of a pretraining run" in line
    (tmp_path / "empty").mkdir()
    # The same workdir: a mistake did not tie it to itself.
    given[-1] = f"--config.init_from={tmp_path}/empty"
    line = fails(*given, command="bin/finetune.py")
    assert f"{tmp_path}/empty: no config.json in it" in line


def test_a_workdir_of_the_other_kind(pretrained):
    line = fails(*TINY_FINETUNE, f"--workdir={pretrained}", command="bin/finetune.py")
    assert f"--workdir={pretrained} belongs to a selfie pretraining run; use another" in line


def test_a_key_of_finetuning_with_a_config_of_pretraining(tmp_path):
    given = ["--config=configs/quickstart.py", "--config.init_from=x", f"--workdir={tmp_path}"]
    line = fails(*given, command="bin/finetune.py")
    assert "must return a selfie_tf.config.FinetuneConfig" in line


def test_a_file_as_init_from(pretrained, tmp_path):
    given = f"--config.init_from={pretrained}/config.json"
    line = fails(*TINY_FINETUNE, given, f"--workdir={tmp_path}", command="bin/finetune.py")
    assert f"{pretrained}/config.json: no config.json in it" in line


def test_finetuning_needs_class_folders(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(np.full([16, 16, 3], i, np.uint8)).save(folder / f"{i}.png")
    given = [*TINY_FINETUNE, f"--config.data.name=folder:{folder}", f"--workdir={tmp_path}/run"]
    line = fails(*given, command="bin/finetune.py")
    assert "lies in no class folder" in line and "PATH/CLASS/*.jpg" in line


def test_pretraining_does_not_take_a_finetuning_config(tmp_path):
    line = fails("--config=configs/finetune_quickstart.py", f"--workdir={tmp_path}")
    assert "must return a selfie_tf.config.Config or PatchFormerConfig" in line


# PatchFormer


@pytest.fixture(scope="module")
def patchformer(finished):
    return finished(TINY_PATCHFORMER)


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--config.patches.mask_ratoi=1"], ["did you mean patches.mask_ratio?"]),
        (["--config.patches.mask_block=3"], ["patches.mask_block=3", "4x4 patches"]),
        (["--config.method=selfie"], ["method='selfie'", "configs/selfie_cifar10.py"]),
    ],
)
def test_mistakes_in_patchformer(flags, expected, tmp_path):
    line = fails(*TINY_PATCHFORMER, *flags, f"--workdir={tmp_path}/run")
    for part in expected:
        assert part in line


def test_workdirs_of_the_other_method(patchformer, pretrained):
    line = fails(*TINY, f"--workdir={patchformer}")
    assert f"--workdir={patchformer} belongs to a patchformer pretraining run" in line
    line = fails(*TINY_PATCHFORMER, f"--workdir={pretrained}")
    assert f"--workdir={pretrained} belongs to a selfie pretraining run" in line


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--config.model.width=4"], "patch_network/stem/conv/kernel is (3, 3, 3, 2) there and"),
        (["--config.model.num_heads=4"], "model.num_heads is 2 there and 4 here"),
        (["--config.patches.size=2"], "positions/row_embedding is (4, 32) there and (8, 32) here"),
    ],
)
def test_a_pretrained_patchformer_that_does_not_fit(patchformer, flags, expected, tmp_path):
    given = [*TINY_FINETUNE_PATCHFORMER, f"--workdir={tmp_path}"]
    given.append(f"--config.init_from={patchformer}")
    line = fails(*given, *flags, command="bin/finetune.py")
    assert f"init_from={patchformer} does not fit: {expected}" in line


def test_init_from_the_other_method(patchformer, pretrained, tmp_path):
    given = [*TINY_FINETUNE_PATCHFORMER, f"--workdir={tmp_path}"]
    line = fails(*given, f"--config.init_from={pretrained}", command="bin/finetune.py")
    assert f"init_from={pretrained} is of Selfie, not of PatchFormer" in line
    given = [*TINY_FINETUNE, f"--workdir={tmp_path}", f"--config.init_from={patchformer}"]
    line = fails(*given, "--config.model.head=resnet36_attention", command="bin/finetune.py")
    assert "no attention pooling of Selfie's: give --config.model.head=resnet50" in line
