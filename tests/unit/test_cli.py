"""The command line, called in this process: parsing, help, and every mistake.

A mistake ends with exit code 1 and one line that names the culprit and the way out, without a
traceback.
"""

import contextlib
import json
import logging
import os
import runpy
import signal
import socket

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from selfie_tf import cli
from selfie_tf.cli import config_files
from selfie_tf.cli.common import log_to
from selfie_tf.config import FinetuneConfig, PatchFormerConfig, SelfieConfig, keys, to_dict
from selfie_tf.errors import Interrupted

from helpers import TINY, TINY_FINETUNE, TINY_FINETUNE_PATCHFORMER, TINY_PATCHFORMER, fails

QUICKSTART = ["pretrain", "--config=quickstart", "--workdir=run"]
FINETUNE = ["finetune", "--config=finetune_quickstart", "--workdir=run"]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Commands start in an empty folder, and change nothing in TensorFlow for later tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    monkeypatch.setattr("selfie_tf.distribution.strategy._let_gpu_memory_grow", lambda: [])


@pytest.fixture
def arguments():
    """Parses a command, and returns the `Arguments` that it is run with."""

    def parsed(*argv):
        return cli.parse(cli.COMMANDS[argv[0]], list(argv[1:]))

    return parsed


# The command itself


def test_without_a_command_one_line_names_them(capsys):
    for argv in ([], ["--workdir=x"]):
        assert cli.main(argv) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert "inspect, prepare, pretrain, finetune, evaluate, predict, embed" in line
        assert "benchmark, check-tpu" in line


def test_an_unknown_command():
    assert "'pretrian'; did you mean pretrain?" in fails("pretrian", "--workdir=x")
    assert "did you mean check-tpu?" in fails("check_tpu")
    assert "export" in fails("serve")


def test_a_line_end_in_a_name_does_not_make_two_lines_of_an_error():
    line = fails(*QUICKSTART, "--config.data.name=folder:/no/a\r\nb")
    assert "folder:/no/a\\r\\nb: no such folder" in line


@pytest.mark.parametrize(
    "raised, code, line",
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted(signal.SIGTERM, "stopped at step 3"), 143, "stopped at step 3"),
    ],
)
def test_signals_have_their_exit_codes(raised, code, line, monkeypatch):
    def make_strategy(*_):
        raise raised

    monkeypatch.setattr("selfie_tf.distribution.strategy.make_strategy", make_strategy)
    assert fails(*QUICKSTART, code=code) == f"error: {line}"


def test_help_that_nobody_reads_to_its_end_is_no_traceback(monkeypatch):
    """As with `selfie-tf pretrain --help | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    stdout = os.fdopen(writer, "w")
    monkeypatch.setattr("sys.stdout", stdout)
    cli.run_process(["pretrain", "--help"])
    assert codes == [128 + signal.SIGPIPE]
    with contextlib.suppress(BrokenPipeError):
        stdout.close()


def test_logs_that_nobody_reads_on_are_no_traceback(capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with log_to(os.fdopen(writer, "w", buffering=1)) as _:
        handler = logging.getLogger().handlers[0]
        logging.info("unread")
    assert capsys.readouterr().err == ""
    with contextlib.suppress(BrokenPipeError):
        handler.stream.close()


def test_a_command_without_standard_output(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    cli.run_process(["--help"])
    cli.sys.stdout.close()


def test_debug_shows_the_traceback(capsys):
    assert cli.main([*QUICKSTART, "--debug", "--config.data.name=folder:/no"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert "Traceback" in err[0] and err[-1].startswith("error: ")


@pytest.mark.parametrize(
    "argv",
    [[*QUICKSTART, "--virtual_devices=-1"], ["benchmark", "--config=quickstart", "--seconds=0"]],
)
def test_logging_is_as_before_afterwards(argv):
    loggers = [logging.getLogger(name) for name in (None, "tensorflow", "absl")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    assert cli.main(argv) == 1
    assert before == [(logger.level, logger.handlers[:]) for logger in loggers]


# Configs


@pytest.mark.parametrize(
    "value", ["quickstart", "quickstart.py", "configs/quickstart", "configs/quickstart.py"]
)
def test_a_config_is_found_by_its_name_from_anywhere(value, arguments):
    found = arguments("pretrain", f"--config={value}", "--workdir=x")
    assert found.config.data.name == "builtin:shapes"
    assert found.config_name == "configs/quickstart.py"


def test_a_config_of_ones_own(arguments, tmp_path):
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "mine.py"
    path.write_text(
        "from selfie_tf.config import PatchFormerConfig\n"
        "def get_config():\n"
        "    config = PatchFormerConfig()\n"
        "    config.train.steps = 20_000\n"
        "    return config\n"
    )
    for value in (str(path), "configs/mine.py"):
        found = arguments("pretrain", f"--config={value}", "--workdir=x")
        assert found.config.train.steps == 20_000 and found.config_name == value


@pytest.mark.parametrize(
    "command, kind, data",
    [
        ("pretrain", SelfieConfig, "tfds:cifar10"),
        ("benchmark", SelfieConfig, "tfds:cifar10"),
        ("check-tpu", SelfieConfig, "tfds:cifar10"),
        ("finetune", FinetuneConfig, "tfds:cifar10"),
    ],
)
def test_default_configs_are_the_papers(command, kind, data, arguments):
    config = arguments(command, *(["--workdir=x"] if command in ("pretrain", "finetune") else []))
    assert type(config.config) is kind and config.config.data.name == data
    assert config.config_name.endswith("cifar10.py")


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "quickstart", "--config.train.steps=700"],
        ["--config.train.steps=700", "--config=quickstart"],
        ["--config=selfie_cifar10", "--config=quickstart", "--config.train.steps", "700"],
        ["--config=quickstart", "--config.train.steps=1", "-config.train.steps=700"],
    ],
)
def test_overrides_in_any_order_the_last_value_counts(argv, arguments):
    config = arguments("pretrain", "--workdir=x", *argv).config
    assert config.train.steps == 700 and config.model.width == 8


def test_given_keys_are_explicit_and_those_of_the_config_file_are_not(arguments):
    flags = ["--config.model.width=8", "--config.data.label_fraction=1", "--noconfig.data.flip"]
    config = arguments(*FINETUNE, *flags).config
    assert config.explicit_keys() == {"model.width", "data.label_fraction", "data.flip"}
    assert config.data.label_fraction == 1.0 and config.data.flip is False


def test_calls_do_not_share_flags(arguments):
    arguments(*QUICKSTART, "--config.train.steps=7000", "--virtual_devices=2")
    second = arguments(*QUICKSTART)
    assert second.config.train.steps == 600 and second.flags.virtual_devices == 0


@pytest.mark.parametrize("name", config_files.known())
def test_configs_validate_and_say_their_command_cost_and_result(name):
    namespace = runpy.run_path(os.path.join(config_files.folder(), f"{name}.py"))
    config, text = namespace["get_config"](), namespace["__doc__"]
    config.validate()
    command = "finetune" if isinstance(config, FinetuneConfig) else "pretrain"
    assert f"bin/{command}.py --config=configs/{name}.py" in text
    assert "not measured" in text or "Result:" in text


def test_each_kind_of_command_knows_its_configs():
    kinds = [config_files.known(cli.COMMANDS[name].kind) for name in ("pretrain", "finetune")]
    assert "quickstart" in kinds[0] and "finetune_quickstart" in kinds[1]
    assert sorted(kinds[0] + kinds[1]) == config_files.known()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x = (", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("x = 1", "defines no get_config()"),
        ("def get_config():\n    return {}", "returns dict; expected a pretraining config"),
    ],
)
def test_config_files_that_cannot_be_used(text, expected, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    line = fails("pretrain", f"--config={path}", "--workdir=run")
    assert f"--config={path}: " in line and expected in line


# Help


def test_the_overview_lists_all_commands(capsys):
    for flag in ("--help", "-h"):
        assert cli.main([flag]) == 0
        out = capsys.readouterr().out
        assert all(f"\n  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("width", [60, 100])
def test_help_says_what_a_command_does_and_all_its_flags(command, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and f"    selfie-tf {command} --" in out
    flags = cli.parse(cli.COMMANDS[command], ["--help"]).flags
    for name in flags:
        if len(name) > 1:
            assert any(line.startswith(f"  --{name}") for line in lines), name
    examples = cli.COMMANDS[command].text
    assert [line for line in lines if len(line) > width and line not in examples] == []


def test_help_without_a_config_has_no_keys(capsys):
    assert cli.main(["export", "--help"]) == 0
    assert "config" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_has_every_key_with_its_value_in_the_given_config(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    argv = ["pretrain", "--help", "--config=patchformer_cifar10", "--config.train.steps=77777"]
    assert cli.main(argv) == 0
    text = capsys.readouterr().out.partition("configs/patchformer_cifar10.py:\n")[2]
    words = " ".join(text.split())
    config = config_files.load(
        config_files.find(argv[2][9:], cli.COMMANDS["pretrain"]), cli.COMMANDS["pretrain"]
    )
    config.train.steps = 77777
    for key in keys(config):
        value = f"{key.value:g}" if key.type is float else key.value
        assert f"\n  {key.name}={value}" in f"\n{text}"
        assert " ".join(key.help.split()) in words
        assert all(choice in words for choice in key.choices)
    # Sections are apart, and the right column is one column in all of them.
    sections = text.split("\n\n")
    assert len(sections) == 7 and sections[3].startswith("  augment.")
    columns = {len(line) - len(line.lstrip()) for line in text.splitlines() if line} - {2}
    assert len(columns) == 1
    assert all(len(line) <= width for line in text.splitlines())


# Mistakes in flags and configs


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--config.train.stepz=3"], ["train.stepz", "did you mean --config.train.steps?"]),
        (["--config.steps=3"], ["unknown config key steps", "train.steps"]),
        (["--config.grid=3"], ["unknown config key grid"]),
        (["--config.data=x"], ["unknown config key data"]),
        (["--config.zzz"], ["unknown config key zzz", "--help"]),
        (["--noconfig.model.norm_synchronised"], ["--config.model.norm_synchronized?"]),
        (["--config="], ["--config=", "no such file", "quickstart"]),
        (["--config"], ["--config is the last word"]),
        (["--config=configs"], ["--config=configs", "no such file"]),
        (["--config=quikstart"], ["--config=quikstart", "did you mean quickstart?"]),
        (["--config.model.width=100000000"], ["model.width=100000000", "1024"]),
        (["--config.patches.size=1", "--config.data.image_size=128"], ["16384 patches", "4096"]),
        (["--config.patches.size=1", "--config.data.image_size=8"], ["data.image_size=8", "8"]),
        (["--config.trian.steps=3"], ["trian.steps", "did you mean --config.train.steps?"]),
        (["--config.train.steps=many"], ["--config.train.steps=many", "a whole number"]),
        (["--config.train.steps=1.5"], ["--config.train.steps=1.5", "a whole number"]),
        (["--config.train.steps="], ["--config.train.steps=:", "a whole number"]),
        (["--config.model.dropout_rate=low"], ["--config.model.dropout_rate=low", "a number"]),
        (["--config.model.norm_synchronized=maybe"], ["norm_synchronized=maybe", "true or false"]),
        (["--config.optimizer.learning_rate=nan"], ["optimizer.learning_rate=nan"]),
        (["--config.optimizer.learning_rate=-1"], ["optimizer.learning_rate=-1"]),
        (["--config.train.batch_size=0"], ["train.batch_size=0", "at least 1"]),
        (["--config.model.pooling=sum"], ["model.pooling='sum'", "attention, mean, max"]),
        (["--config.data.name=imagenet"], ["data.name='imagenet'", "folder:PATH"]),
        (["--config.data.image_size=30"], ["image_size=30", "patches.size=8", "image_size=24"]),
        (["--config.model.num_heads=3"], ["model.num_heads=3", "128"]),
        (["--config.patches.context_fraction=1"], ["context_fraction=1", "0 target"]),
        (
            ["--config.model.query=per_location", "--config.model.pooling=max"],
            ["model.pooling=max", "needs model.pooling=attention"],
        ),
        (
            ["--config.data.pad_mode=reflect", "--config.data.crop=pad", "--config.patches.pad=32"],
            ["patches.pad=32", "data.pad_mode=reflect", "less than data.image_size=32"],
        ),
        (["--config.optimizer.warmup_steps=600"], ["warmup_steps=600", "train.steps=600"]),
        (
            ["--config.train.steps_per_execution=7"],
            ["checkpoint_every=100", "steps_per_execution=7"],
        ),
        (["steps=3"], ["'steps=3'", "--name=value"]),
        (["--confg=x"], ["unknown flag --confg", "did you mean --config?"]),
        (["--zzzzzz=x"], ["unknown flag --zzzzzz", "--help"]),
        (["--virtual_devices=two"], ["--virtual_devices=two", "--help"]),
        (["--config=configs/nothing.py"], ["configs/nothing.py", "selfie_cifar10"]),
        (["--config.data.name=builtin:cats"], ["builtin:cats", "builtin:shapes"]),
        (["--virtual_devices=-1"], ["--virtual_devices=-1"]),
        (["--config.train.batch_size=5001"], ["5000 images to train on", "one batch of 5001"]),
        (["--config.data.name=folder:/no/such/place"], ["/no/such/place", "no such folder"]),
        (["--config.data.name=tfds:cifar11"], ["tfds:cifar11", "not found"]),
    ],
)
def test_mistakes_in_flags_and_config(flags, expected):
    line = fails(*QUICKSTART, *flags)
    for part in expected:
        assert part in line


@pytest.mark.parametrize(
    "flag, expected",
    [
        ("--config.lr=0.1", "--config.optimizer.learning_rate?"),
        ("--config.epochs=3", "--config.train.steps?"),
        ("--config.batch=64", "--config.train.batch_size?"),
        ("--config.path=images", "--config.data.name?"),
        ("--config.workdir=runs/x", "--workdir?"),
        ("--lr=0.1", "--config.optimizer.learning_rate?"),
        ("--epochs=3", "--config.train.steps?"),
        ("--steps=3", "--config.train.steps?"),
        ("--data=images", "--data_dir or --config.data.name?"),
        ("--batch_size=64", "--config.train.batch_size?"),
        ("--init_from=runs/x", "--config.init_from?"),
        ("--workdr=runs/x", "--workdir?"),
        ("--train.steps=3", "--config.train.steps?"),
    ],
)
@pytest.mark.parametrize("config", [["--config=quickstart"], []], ids=["given", "default"])
def test_what_people_type_is_understood(flag, expected, config):
    line = fails("pretrain", *config, "--workdir=x", flag)
    assert line.startswith("error: unknown ") and line.endswith(f"; did you mean {expected}")
    assert flag.partition("=")[0].removeprefix("--").removeprefix("config.") in line


def test_a_mistake_in_the_data_does_not_tie_the_workdir_to_it(tmp_path):
    fails("pretrain", *TINY, "--config.data.name=folder:/typo", f"--workdir={tmp_path}")
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("command", ["pretrain", "finetune", "evaluate", "export"])
def test_a_missing_workdir_flag(command):
    assert "--workdir is missing" in fails(command)


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["export", "--workdir=x"], "--output is missing"),
        (["compare"], "--runs=: expected LABEL=WORKDIR"),
        (["compare", "--runs=a=x,b"], "--runs=a=x,b: expected LABEL=WORKDIR"),
        (["evaluate", "--workdir=x", "--train_images=0"], "--train_images=0"),
        (["evaluate", "--workdir=x", "--label_fraction=2"], "--label_fraction=2"),
        (["evaluate", "--workdir=x", "--config=quickstart"], "unknown flag --config"),
        (["evaluate", "--workdir=/no/such/run"], "/no/such/run: no config.json in it"),
        (["benchmark", "--config=quickstart", "--seconds=nan"], "--seconds=nan"),
        (["benchmark", "--config=quickstart", "--seconds=inf"], "--seconds=inf"),
        (["benchmark", "--config=quickstart", "--batch_size=0"], "--batch_size=0: expected at"),
        (["benchmark", "--config=quickstart", "--workers=1,two"], "--workers=1,two: expected"),
        (["benchmark", "--config=finetune_quickstart", "--workers=2"], "is a finetuning config"),
        (["benchmark", "--config=quickstart", "--compare=/no/such.json"], "--compare=/no/such"),
    ],
)
def test_mistakes_in_other_commands(argv, expected):
    assert expected in fails(*argv)


def test_missing_tfds_data_names_the_quickstart(tmp_path):
    """The default config is the paper's CIFAR-10 run."""
    line = fails("pretrain", "--workdir=run", f"--data_dir={tmp_path}/data")
    for part in ("tfds:cifar10", f"{tmp_path}/data", "--download", "--config="):
        assert part in line
    assert "quickstart" in line


@pytest.mark.parametrize("files, expected", [([], "no images"), (["a.txt"], "no images")])
def test_folders_without_images(files, expected, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("x")
    line = fails("pretrain", *TINY, f"--config.data.name=folder:{folder}", "--workdir=run")
    assert expected in line and str(folder) in line and ".png" in line


# The work directory


def test_a_workdir_of_another_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"train": {"steps": 700, "seed": 3}}))
    line = fails("pretrain", "--config=quickstart", f"--workdir={tmp_path}")
    for part in (str(tmp_path), "train.seed (3, now 0)", "train.steps (700, now 600)", "--workdir"):
        assert part in line


def test_a_damaged_config_file_in_the_workdir(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in fails("pretrain", "--config=quickstart", f"--workdir={tmp_path}")


def test_a_workdir_that_is_an_export(tmp_path):
    (tmp_path / "saved_model.pb").write_text("")
    assert f"--workdir={tmp_path} is an export" in fails(*QUICKSTART, f"--workdir={tmp_path}")
    assert os.listdir(tmp_path) == ["saved_model.pb"]


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    line = fails("pretrain", "--config=quickstart", f"--workdir={tmp_path}/file/run")
    assert "--workdir" in line


@pytest.mark.parametrize("name", ["checkpoints", "figures"])
def test_a_file_in_the_way_is_noticed_at_once(name, tmp_path):
    (tmp_path / name).write_text("")
    line = fails("pretrain", *TINY, f"--workdir={tmp_path}")
    assert "--workdir" in line and name in line


def write_config(folder, config):
    """Makes a folder that looks like the work directory of a run."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    return folder


@pytest.mark.parametrize(
    "argv, config, kind",
    [
        (["finetune", *TINY_FINETUNE], SelfieConfig(), "a selfie pretraining run"),
        (["pretrain", *TINY], FinetuneConfig(), "a finetuning run"),
        (["pretrain", *TINY], PatchFormerConfig(), "a patchformer pretraining run"),
        (["pretrain", *TINY_PATCHFORMER], SelfieConfig(), "a selfie pretraining run"),
    ],
)
def test_a_workdir_of_another_kind_of_run(argv, config, kind, tmp_path):
    workdir = write_config(tmp_path / "other", config)
    line = fails(*argv, f"--workdir={workdir}")
    assert f"--workdir={workdir} belongs to {kind}; use another" in line


# Hardware


def test_an_absent_tpu():
    line = fails("pretrain", *TINY, "--workdir=run", "--tpu=local")
    assert "--tpu=local" in line and "leave --tpu out" in line


@pytest.mark.parametrize("listens", [True, False])
def test_a_tpu_address_that_says_nothing(listens, monkeypatch):
    monkeypatch.setattr("selfie_tf.distribution.strategy._TIMEOUT", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        name = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        line = fails("pretrain", *TINY, "--workdir=run", f"--tpu={name}")
    assert f"--tpu={name}" in line and "within 1 s" in line and "leave --tpu out" in line


@pytest.mark.parametrize("other", ["--tpu=local", "TF_CONFIG"])
def test_virtual_devices_exclude_other_hardware(other, monkeypatch):
    flags = ["--virtual_devices=2"]
    if other == "TF_CONFIG":
        monkeypatch.setenv("TF_CONFIG", "{}")
    else:
        flags.append(other)
    line = fails(*QUICKSTART, *flags)
    assert f"--virtual_devices and {other.partition('=')[0]} exclude each other" in line


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
            "a:1 ",
        ),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "only chief and worker",
        ),
    ],
)
def test_bad_tf_config(value, expected, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", value)
    line = fails("pretrain", *TINY, "--workdir=run")
    assert "TF_CONFIG" in line and expected in line and '"cluster"' in line


# Finetuning


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--config.data.label_fracton=3"], ["did you mean --config.data.label_fraction?"]),
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
            ["50 images to train on", "--config.train.batch_size"],
        ),
        (["--config.model.head=resnet101"], ["model.head='resnet101'", "resnet36_attention"]),
        (
            ["--config.model.head=resnet36_attention", "--config.patches.size=2"],
            ["patches.size=2: the 8x8 feature map", "16x16 grid", "patch_by_patch"],
        ),
        (
            ["--config=configs/quickstart.py", "--config.init_from=x"],
            ["configs/quickstart.py is a pretraining config", "finetune_cifar10"],
        ),
        (["--config.init_from=/no/such/run"], ["/no/such/run: no config.json in it"]),
        (["--config.init_from=."], [".: no config.json in it"]),
        (["--config.train.eval_every=0"], ["train.eval_every=0", "at least 1"]),
        (
            ["--config.train.steps_per_execution=20", "--config.train.eval_every=30"],
            ["train.eval_every=30 is not a multiple"],
        ),
        (["--config.data.name=tfds:cifar11"], ["tfds:cifar11", "not found"]),
        (["--config.from_scratch"], ["from_scratch=True", "init_from"]),
    ],
)
def test_mistakes_in_finetuning(flags, expected):
    line = fails(*FINETUNE, *flags)
    for part in expected:
        assert part in line


def test_pretraining_does_not_take_a_config_of_finetuning():
    line = fails("pretrain", "--config=configs/finetune_quickstart.py", "--workdir=run")
    assert "configs/finetune_quickstart.py is a finetuning config" in line
    assert "pretrain takes a pretraining config: patchformer_cifar10, " in line


@pytest.mark.parametrize(
    "tiny, config, flags, expected",
    [
        (TINY_FINETUNE, SelfieConfig, ["--config.model.width=3"], "model.width is 64 there"),
        (
            TINY_FINETUNE,
            SelfieConfig,
            ["--config.model.head=resnet36_attention", "--config.model.num_heads=4"],
            "is 32 there",
        ),
        (
            TINY_FINETUNE_PATCHFORMER,
            PatchFormerConfig,
            ["--config.patches.size=2"],
            "data.image_size is 224 there, and you set 16",
        ),
    ],
)
def test_a_given_key_that_differs_from_the_pretrained_network(
    tiny, config, flags, expected, tmp_path
):
    pretrained = write_config(tmp_path / "pretrained", config())
    line = fails("finetune", *tiny, *flags, f"--config.init_from={pretrained}", "--workdir=run")
    assert f"init_from={pretrained} does not fit: " in line and expected in line


def test_init_from_what_is_no_pretraining_does_not_tie_the_workdir_to_it(tmp_path):
    finetuned = write_config(tmp_path / "finetuned", FinetuneConfig())
    given = ["finetune", *TINY_FINETUNE, f"--workdir={tmp_path}/run"]
    line = fails(*given, f"--config.init_from={finetuned}")
    assert f"{finetuned} comes from a finetuning run; give a pretraining run" in line
    (tmp_path / "empty").mkdir()
    line = fails(*given, f"--config.init_from={tmp_path}/empty")  # the same work directory
    assert f"{tmp_path}/empty: no config.json in it" in line


def test_a_file_as_init_from(tmp_path):
    path = write_config(tmp_path / "pretrained", SelfieConfig()) / "config.json"
    line = fails("finetune", *TINY_FINETUNE, f"--config.init_from={path}", "--workdir=run")
    assert f"{path}: no config.json in it" in line


def test_finetuning_needs_class_folders(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(np.full([16, 16, 3], i, np.uint8)).save(folder / f"{i}.png")
    given = ["finetune", *TINY_FINETUNE, f"--config.data.name=folder:{folder}", "--workdir=run"]
    line = fails(*given)
    assert "lies in no class folder" in line and "PATH/CLASS/*.jpg" in line


# PatchFormer


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--config.patches.mask_ratoi=1"], ["did you mean --config.patches.mask_ratio?"]),
        (["--config.patches.mask_block=3"], ["patches.mask_block=3", "4x4 patches"]),
        (["--config.method=selfie"], ["method='selfie'", "config"]),
    ],
)
def test_mistakes_in_patchformer(flags, expected):
    line = fails("pretrain", *TINY_PATCHFORMER, *flags, "--workdir=run")
    for part in expected:
        assert part in line
