"""The README does not run ahead of the code."""

import glob
import os
import re
import runpy

import pytest

from selfie_tf.config import FinetuneConfig, PatchFormerConfig, SelfieConfig, flatten

from helpers import ROOT

with open(os.path.join(ROOT, "README.md")) as file:
    README = file.read()


def test_the_script_runs(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(re.findall(r"```python\n(.*?)```", README, re.S)[-1])
    namespace = runpy.run_path(str(script))
    assert namespace["features"].shape == (1, 8, 8, 128)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?:bin|configs|examples|requirements)/\w+\.\w+", README)))
)
def test_named_files_exist(path):
    assert os.path.exists(os.path.join(ROOT, path))


def test_no_figure_is_left_to_fill_in():
    texts = [README]
    for path in glob.glob(os.path.join(ROOT, "configs", "*.py")):
        with open(path) as file:
            texts.append(file.read())
    assert not any(re.search(r"[A-Z]+_RESULTS|FIGURES|TODO|XXX", text) for text in texts)


def test_named_flags_and_keys_exist():
    keys = set(re.findall(r"--config\.([a-z_]+\.[a-z_]+)", README))
    known = {
        k for kind in (SelfieConfig, PatchFormerConfig, FinetuneConfig) for k in flatten(kind())
    }
    assert keys and keys <= known
    sources = ""
    for name in glob.glob(os.path.join(ROOT, "bin", "*.py")):
        with open(name) as file:
            sources += file.read()
    flags = set(re.findall(r"--([a-z_]+)=?", README)) - {"config", "logdir"}
    assert flags and all(f'"{flag}"' in sources for flag in flags)


def test_pictures_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures and all(os.path.exists(os.path.join(ROOT, p)) for p in pictures)
