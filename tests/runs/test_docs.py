"""The commands of docs/TPU.md, as far as our own flags can tell."""

import itertools
import os
import re
import shlex
import subprocess
import sys

import pytest

from helpers import ROOT

with open(os.path.join(ROOT, "docs", "TPU.md")) as file:
    TEXT = file.read()
BLOCKS = "\n".join(re.findall(r"```\n(.*?)```", TEXT, re.S)).replace("\\\n", " ")
COMMANDS = re.findall(r"python (bin/\w+\.py[^;&\n]*)", BLOCKS)

PARSE = """
import importlib, os, sys
sys.path.insert(0, os.path.join({root!r}, "bin"))
importlib.import_module(os.path.basename(sys.argv[0])[:-3])
import _main
_main._parse(sys.argv)
"""


def test_there_are_commands():
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_are_known(command):
    code = f"import sys; sys.argv = {shlex.split(command)!r}" + PARSE.format(root=ROOT)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"(?:requirements|configs|bin)/[\w-]+\.\w+", TEXT)))
)
def test_named_files_exist(name):
    assert os.path.exists(os.path.join(ROOT, name))


def test_named_make_targets_exist():
    with open(os.path.join(ROOT, "Makefile")) as file:
        makefile = file.read()
    targets = set(re.findall(r"`make ([\w-]+)`", TEXT))
    assert targets and all(f"\n{target}:" in makefile for target in targets)


def test_the_table_is_whole():
    with open(os.path.join(ROOT, "Makefile")) as file:
        makefile = file.read()
    configs = re.search(r"^TABLE := (.*)", makefile, re.M)[1].split()
    topologies = re.findall(r"--topology=(\S+)", makefile)[-1].split(",")
    table = TEXT.partition("<!-- table")[2].partition("<!-- end")[0]
    rows = re.findall(r"^\| (\w+), \d+ \| (v\S+) \|.* h \| [\d.]+ \|$", table, re.M)
    assert rows == list(itertools.product(configs, topologies))
