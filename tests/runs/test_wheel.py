"""The package works without a checkout: built as a wheel and installed in an empty environment."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from selfie_tf import cli
from selfie_tf.cli import config_files

from helpers import ROOT

pytestmark = pytest.mark.full_depth

# What a command line does that needs no TensorFlow, all in one process.
SCRIPT = """
import json, os, sys
import selfie_tf
from selfie_tf import cli
from selfie_tf.cli import config_files

found = {"package": selfie_tf.__file__, "configs": config_files.folder(), "codes": {}}
for name in cli.COMMANDS:
    found["codes"][name] = cli.main([name, "--help"])
found["overview"] = cli.main(["--help"])
found["mistake"] = cli.main(["pretrain", "--config=quickstart", "--workdir=x", "--config.lr=1"])
found["heavy"] = [m for m in ("tensorflow", "tf_keras", "tensorflow_datasets") if m in sys.modules]
found["lazy"] = selfie_tf.load_pretrained.__module__
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds the wheel from a copy, since building leaves files in the folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("selfie_tf", "configs"):
        shutil.copytree(os.path.join(ROOT, name), source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(os.path.join(ROOT, name), source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", out, source], check=True)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel alone, which borrows the dependencies of this one."""
    path = tmp_path_factory.mktemp("environment")
    venv.create(path, symlinks=True)
    python = path / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet"]
    subprocess.run([*command, wheel], check=True)
    site = sysconfig.get_paths(vars={"base": path, "platbase": path})["purelib"]
    own = {sysconfig.get_paths()[name] for name in ("purelib", "platlib")}
    with open(os.path.join(site, "dependencies.pth"), "w") as file:
        file.write("\n".join(own))
    return path


def run(*command):
    """Runs a command from the root directory: (exit code, stdout, stderr)."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TF_CONFIG")}
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=clean, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_the_wheel_holds_all_modules_and_configs_and_nothing_else(wheel):
    expected = {"selfie_tf/py.typed"}
    for top, prefix in (("selfie_tf", "selfie_tf"), ("configs", "selfie_tf/configs")):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            place = os.path.normpath(
                os.path.join(prefix, os.path.relpath(folder, os.path.join(ROOT, top)))
            )
            kinds = (".py", ".html", ".js")
            expected |= {os.path.join(place, name) for name in names if name.endswith(kinds)}
    with zipfile.ZipFile(wheel) as file:
        found = {name for name in file.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_help_and_mistakes_without_a_checkout(environment):
    code, out, err = run(environment / "bin" / "python", "-c", SCRIPT)
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    package = os.path.dirname(found["package"])
    assert package.startswith(str(environment)) and found["configs"] == f"{package}/configs"
    assert found["codes"] == dict.fromkeys(cli.COMMANDS, 0) and found["overview"] == 0
    assert all(f"selfie-tf {name} --" in out for name in cli.COMMANDS)
    assert all(name in out for name in config_files.known())
    assert found["mistake"] == 1
    assert "error: unknown config key lr; did you mean --config.optimizer.learning_rate?\n" in err
    assert found["heavy"] == []  # neither help nor mistakes wait for TensorFlow
    assert found["lazy"] == "selfie_tf.training.load"


def test_the_command_pretrains_without_a_checkout(environment, tmp_path):
    command = environment / "bin" / "selfie-tf"
    code, out, err = run(command, "pretrain", "--config=quikstart", f"--workdir={tmp_path}")
    assert code == 1 and out == ""
    assert err.startswith("error: ") and "did you mean quickstart?" in err
    assert len(err.splitlines()) == 1
    small = ["model.width=2", "model.num_heads=2", "train.batch_size=8", "data.eval_images=8"]
    steps = ["train.steps=2", "optimizer.warmup_steps=1", "train.log_every=1"]
    flags = [f"--config.{setting}" for setting in (*small, *steps)]
    code, out, err = run(
        command, "pretrain", "--config=quickstart", f"--workdir={tmp_path}/run", *flags
    )
    assert code == 0, err
    assert "step 2/2" in out and "\nerror: " not in err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2 and result["data"]["name"] == "builtin:shapes"
