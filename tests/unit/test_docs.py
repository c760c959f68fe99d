"""README and docs do not run ahead of the code: commands, keys, files, links and Python in them."""

import glob
import itertools
import os
import re
import shlex
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import yaml

from selfie_tf.cli import COMMANDS, common, config_files
from selfie_tf.config import FinetuneConfig, PatchFormerConfig, SelfieConfig, flatten
from selfie_tf.data import SOURCES, augment, make_source
from selfie_tf.methods import METHODS
from selfie_tf.training.build import build_classifier, build_pretrainer

from helpers import ROOT, save_run, write_json

PAGES = {}
for path in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/index.md", "docs/[A-Z]*.md"):
    for found in glob.glob(os.path.join(ROOT, path)):
        with open(found) as file:
            PAGES[os.path.relpath(found, ROOT)] = file.read()
with open(os.path.join(ROOT, "Makefile")) as file:
    MAKEFILE = file.read()
EVERYTHING = "\n".join(PAGES.values())


def exists(path):
    return os.path.exists(os.path.join(ROOT, path))


def commands(text):
    """[command, flag, ...] of each command in the code blocks of a page."""
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.S | re.M)).replace("\\\n", " ")
    inline = "\n".join(re.findall(r"`(selfie-tf [\w-]+ --[^`]+)`", text))
    found = re.findall(r"(selfie-tf [\w-]+|python bin/\w+\.py)\b([^;&\n]*)", f"{blocks}\n{inline}")
    for start, flags in found:
        name = start.split()[-1].removeprefix("bin/").removesuffix(".py").replace("_", "-")
        yield [name, *shlex.split(flags, comments=True)]


ALL = [(page, words) for page, text in PAGES.items() for words in commands(text)]


def test_there_are_commands():
    count = {page: sum(page == p for p, _ in ALL) for page in PAGES}
    assert count["README.md"] >= 4 and count["docs/GUIDE.md"] >= 10 and count["docs/TPU.md"] >= 7


@pytest.mark.parametrize(
    ("page", "words"), ALL, ids=[f"{page}: {' '.join(words)[:60]}" for page, words in ALL]
)
def test_commands_parse(page, words):
    if words[1:] != ["--help"]:
        words = [word.replace("--config=NAME", f"--config={words[0]}") for word in words]
        common.parse(COMMANDS[words[0]], words[1:])


def test_named_keys_and_flags_exist():
    known = {
        key for kind in (SelfieConfig, PatchFormerConfig, FinetuneConfig) for key in flatten(kind())
    }
    keys = set(re.findall(r"--config\.([a-z_][a-z_.\d]*[a-z\d])", EVERYTHING))
    assert len(keys) > 40 and keys <= known, keys - known
    known = {"config", "logdir", "help"}
    for command in COMMANDS.values():
        flags = ["--help"] if command.kind is None else ["--help", f"--config={command.config}"]
        known |= set(common.parse(command, flags).flags)
    outside = {"zone", "version", "accelerator-type"}  # gcloud's
    outside |= {"dir", "tag_set", "signature_def", "inputs"}  # saved_model_cli's
    flags = set(re.findall(r"(?<![\w-])--([a-z][a-z_-]*)", EVERYTHING)) - outside
    assert len(flags) > 10 and flags <= known, flags - known


def test_named_configs_exist():
    named = set(
        re.findall(r"`((?:selfie|patchformer|finetune)_\w+\d+|finetune_quickstart)`", EVERYTHING)
    )
    known = {*config_files.known(), *config_files.known_experiments()}
    assert len(named) > 5 and named <= known, named - known


def test_named_files_exist():
    folders = "bin|configs|docs|examples|requirements|selfie_tf|tests"
    named = set(re.findall(rf"(?<![\w./])(?:{folders})/[\w./-]*\w", EVERYTHING))
    packages = "config|cli|methods|training|data|models|layers|storage|distribution|evaluation"
    inside = set(re.findall(rf"(?<![\w./])((?:{packages})/\w+\.py)", EVERYTHING))
    missing = {path for path in named if "NAME" not in path and not exists(path)}
    missing |= {path for path in inside if not exists(f"selfie_tf/{path}")}
    assert len(named) > 10 and len(inside) > 5 and not missing, missing


def test_named_make_targets_exist():
    targets = set(re.findall(r"`make ([\w-]+)|^make ([\w-]+)", EVERYTHING, re.M))
    targets = {one or other for one, other in targets}
    missing = {target for target in targets if f"\n{target}:" not in MAKEFILE}
    assert len(targets) > 5 and not missing, missing


def anchors(text):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    for heading in re.findall(r"^#+ (.*)", text, re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_resolve(page):
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", PAGES[page], flags=re.S | re.M)
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    for link in (one or other for one, other in links):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        if target.startswith("docs/reference/") or target in (
            "docs/contributing.md",
            "docs/changelog.md",
        ):
            assert page == "docs/index.md"  # made by `make docs`, so of the site alone
            continue
        assert exists(target), link
        assert not anchor or anchor in anchors(PAGES[target]), link


def test_nothing_is_left_to_fill_in():
    texts = dict(PAGES)
    for path in glob.glob(os.path.join(ROOT, "configs", "*.py")):
        with open(path) as file:
            texts[path] = file.read()
    for path, text in texts.items():
        assert not re.search(r"[A-Z]+_RESULTS|FIGURES\b|TODO|XXX", text), path


def test_the_table_of_tpus_is_whole():
    configs = re.search(r"^TABLE := (.*)", MAKEFILE, re.M)[1].split()
    topologies = re.findall(r"--topology=(\S+)", MAKEFILE)[-1].split(",")
    table = PAGES["docs/TPU.md"].partition("<!-- table")[2].partition("<!-- end")[0]
    rows = re.findall(r"^\| (\w+), \d+ \| (v\S+) \|.* h \| [\d.]+ \|$", table, re.M)
    assert rows == list(itertools.product(configs, topologies))


def test_the_citation_file_has_what_its_schema_asks_for():
    with open(os.path.join(ROOT, "CITATION.cff")) as file:
        citation = yaml.safe_load(file)
    assert {"cff-version", "message", "title", "authors", "references"} <= set(citation)
    assert all({"type", "title", "authors"} <= set(paper) for paper in citation["references"])
    for paper in citation["references"]:
        assert paper["url"] in PAGES["README.md"]


# The Python in the pages


def test_it_compiles():
    for text in PAGES.values():
        for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.S | re.M):
            compile(f"def block():\n{textwrap.indent(textwrap.dedent(block), ' ')}", "page", "exec")


def blocks(page, name):
    """The Python blocks of a page that have `name` in them."""
    found = re.findall(r"^ *```python\n(.*?)^ *```", PAGES[page], re.S | re.M)
    return [block for block in found if name in block]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """runs/mine and runs/classifier in the current directory, with tiny networks."""
    monkeypatch.chdir(tmp_path)
    for config in (SelfieConfig(), FinetuneConfig()):
        config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
        if isinstance(config, SelfieConfig):
            save_run("runs/mine", config, build_pretrainer(config))
        else:
            save_run("runs/classifier", config, build_classifier(config, 3))
            write_json("runs/classifier/subset.json", {"class_names": ["a", "b", "c"]})


@pytest.mark.parametrize("page", ["README.md", "docs/GUIDE.md"])
def test_loading_runs_in_python(page, runs):
    (block,) = blocks(page, "load_pretrained")
    values = {"images": np.zeros([5, 32, 32, 3], np.uint8)}
    exec(block, values)
    assert values["features"].shape == (5, 32)
    assert values["feature_maps"].shape == (5, 8, 8, 32)
    assert values["logits"].shape == (5, 3)


@pytest.fixture
def eager():
    """Nothing is traced, which takes most of the time of a single step."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
def test_training_with_a_loop_of_ones_own(eager):
    (block,) = blocks("docs/GUIDE.md", "model.fit")
    smaller = {
        "256,": "64,",
        "width=8, num_heads=4, mlp_dim=80": "width=2, num_heads=2, mlp_dim=16",
    }
    for one, other in smaller.items():
        assert one in block
        block = block.replace(one, other)
    values = {}
    exec(block, values)
    assert values["features"].shape == (1, 8, 8, 32)


def test_the_recipe_for_a_source(tmp_path, monkeypatch):
    (block,) = blocks("CONTRIBUTING.md", "def open_source")
    values = {}
    exec(block, values)
    monkeypatch.setitem(SOURCES, "npy", values["open_source"])
    np.save(tmp_path / "images.npy", np.zeros([40, 20, 24, 3], np.uint8))
    config = SelfieConfig()
    config.data.name, config.train.batch_size = f"npy:{tmp_path}/images.npy", 4
    source = make_source(config.data)
    assert (source.num_train, source.num_held_out) == (36, 4)
    batch = next(iter(METHODS["selfie"].training_batches(source, config)))
    assert batch["context_patches"].shape == (4, 12, 8, 8, 3)


def test_the_recipe_for_an_augmentation(rng):
    (block,) = blocks("CONTRIBUTING.md", "def solarize")
    values = dict(vars(augment))
    exec(textwrap.dedent(block), values)
    patches = rng.integers(0, 256, [6, 4, 4, 3], dtype=np.uint8)
    inverted = np.where(patches >= 128, 255 - patches, patches)
    seed = tf.constant([1, 2], tf.int64)
    np.testing.assert_array_equal(values["solarize"](patches, 0.0, seed), patches)
    np.testing.assert_array_equal(values["solarize"](patches, 1.0, seed), inverted)
