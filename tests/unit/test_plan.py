"""Plans of experiments: their cells, and the configs of these."""

import collections
import os

import pytest

from selfie_tf.cli import config_files
from selfie_tf.config import FinetuneConfig, SelfieConfig, flatten
from selfie_tf.config.files import get
from selfie_tf.errors import UserError
from selfie_tf.experiments import plan as plans
from selfie_tf.experiments.plan import Experiment, Recipe, Task, Tuning, setting_name
from selfie_tf.training.cost import gflop_per_image

from helpers import MINIATURE, ROOT


@pytest.fixture
def miniature():
    return config_files.load_experiment(MINIATURE)


def test_cells_of_a_plan(miniature):
    cells = miniature.cells()
    assert len({cell.name for cell in cells}) == len(cells)
    counts = collections.Counter((cell.kind, cell.recipe, cell.task) for cell in cells)
    assert counts == {
        ("pretrain", "selfie", ""): 2,
        ("probe", "selfie", ""): 2,
        ("tune", "scratch", "2%"): 2,
        ("tune", "scratch", "few"): 2,
        ("tune", "selfie", "2%"): 2,
        ("final", "scratch", "2%"): 2,
        ("final", "scratch", "few"): 1,
        ("final", "selfie", "2%"): 2,
    }


@pytest.mark.parametrize("primary", [(), (("selfie", "scratch", "2%"),)])
def test_a_cell_follows_those_it_depends_on(miniature, primary):
    miniature.primary = primary
    cells = miniature.cells()
    at = {cell.name: number for number, cell in enumerate(cells)}
    for cell in cells:
        pretrain = f"{cell.recipe}/{cell.pretraining}/pretrain"
        assert cell.kind == "pretrain" or at.get(pretrain, -1) < at[cell.name]
        for other in cells:
            if (other.kind, cell.kind) == ("tune", "final") and other.task == cell.task:
                assert other.recipe != cell.recipe or at[other.name] < at[cell.name]


def test_tasks_of_primary_comparisons_come_first(miniature):
    miniature.tuning = None
    miniature.recipes["frozen"] = Recipe("selfie", {"train.frozen_steps": 2})
    config = miniature.tasks["2%"].config
    miniature.tasks = {"2%": Task(config, 2, 1), "few": Task(config, 2, 1, ("frozen",))}
    before = miniature.cells()
    miniature.primary = (("frozen", "frozen", "few"),)
    cells = miniature.cells()
    assert sorted(cells, key=str) == sorted(before, key=str)
    assert [cell.name for cell in cells if cell.kind != "probe"] == [
        *("selfie/0/pretrain", "frozen/0/few/0", "selfie/1/pretrain", "frozen/1/few/1"),
        *("scratch/0/2%/0", "selfie/0/2%/0", "frozen/0/2%/0"),
        *("scratch/1/2%/1", "selfie/1/2%/1", "frozen/1/2%/1"),
    ]


def test_a_task_may_name_its_pretrainings(miniature):
    """Only those are made, and the search belongs to the first."""
    miniature.tasks = {"2%": Task(miniature.tasks["2%"].config, (3, 5), 2)}
    miniature.validate()
    found = collections.defaultdict(set)
    for cell in miniature.cells():
        found[cell.kind].add((cell.pretraining, cell.seed))
    assert found["pretrain"] == {(3, 0), (5, 0)}
    assert found["final"] == {(3, 6), (3, 7), (5, 10), (5, 11)}
    assert {number for number, _ in found["tune"]} == {3}


def test_recipes_meet_the_same_subsets_and_seeds(miniature):
    miniature.tasks["2%"].seeds = 2
    seeds = collections.defaultdict(list)
    for cell in miniature.cells():
        if (cell.kind, cell.task) == ("final", "2%"):
            config = miniature.config(cell, (("optimizer.learning_rate", 0.01),))
            assert config.optimizer.learning_rate == 0.01
            assert config.train.seed == config.data.subset_seed == cell.seed
            assert config.data.pad_mode == ("reflect" if cell.recipe == "scratch" else "zeros")
            assert not config.data.validation_fraction and not config.explicit_keys()
            seeds[cell.recipe].append((cell.pretraining, cell.seed))
    assert seeds["scratch"] == seeds["selfie"] == [(0, 0), (0, 1), (1, 2), (1, 3)]


def test_tuning_draws_validation_images_and_sets_the_grid(miniature):
    miniature.tuning = Tuning(
        {"optimizer.learning_rate": (0.1, 0.2), "train.steps": (4, 8, 12)}, draws=2
    )
    cells = [
        c for c in miniature.cells() if (c.kind, c.recipe, c.task) == ("tune", "scratch", "few")
    ]
    assert len(cells) == 2 * 3 * 2
    config = miniature.config(cells[-1])
    assert setting_name(cells[-1].setting) == "optimizer.learning_rate=0.2,train.steps=12"
    assert (config.optimizer.learning_rate, config.train.steps) == (0.2, 12)
    assert (config.data.validation_fraction, config.data.subset_seed) == (0.1, 1)


def test_each_pretraining_has_its_seed_and_the_plan_is_not_changed(miniature):
    first, second = (
        miniature.config(c)
        for c in miniature.cells()
        if (c.kind, c.recipe) == ("pretrain", "selfie")
    )
    assert (first.train.seed, second.train.seed) == (0, 1)
    first.data.image_size = 8
    assert miniature.recipes["selfie"].pretrain.data.image_size == 16


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"recipes": {"a": Recipe("b")}}, "recipe 'a': pretrain='b' is no earlier recipe"),
        ({"recipes": {"a": Recipe(), "b": Recipe("a")}}, "recipe 'b': pretrain='a' is no earlier"),
        ({"primary": (("a", "b", "5%"),)}, "there is no recipe 'b' on a task '5%'"),
        ({"published": {("a", "8%"): (1, 1)}}, "there is no recipe 'a' on a task '8%'"),
        ({"recipes": {"a/b": Recipe()}}, "recipe 'a/b': a name is made of letters"),
        (
            {"tasks": {"5%": Task(FinetuneConfig(), recipes=("b",))}},
            "task '5%': there is no recipe",
        ),
        ({"tasks": {"5%": Task(FinetuneConfig(), seeds=0)}}, "task '5%': pretrainings and seeds"),
        ({"tasks": {"5%": Task(FinetuneConfig(), ())}}, "task '5%': pretrainings and seeds"),
        ({"tasks": {"5%": Task(FinetuneConfig(), (-1,))}}, "a pretraining has the number -1"),
        ({"tasks": {"5%": Task(FinetuneConfig(), metric="f1")}}, "metric='f1', expected top1 or b"),
        (
            {"tasks": {n: Task(FinetuneConfig(), metric=n) for n in ("top1", "balanced_accuracy")}},
            "the same metric",
        ),
        ({"tuning": Tuning({"train.steps": ()})}, "tuning: its grid has a key without values"),
        (
            {"tuning": Tuning({"train.step": (1,)})},
            "a/0/tune/5%/train.step=1/0: unknown config key",
        ),
        ({"tuning": Tuning({"train.steps": (0,)})}, "a/0/tune/5%/train.steps=0/0: train.steps=0"),
        ({"recipes": {"a": Recipe(finetune={"model.widht": 1})}}, "unknown config key model.widht"),
        ({"recipes": {}}, "needs at least one recipe"),
        ({"recipes": {"..": Recipe()}}, "recipe '..': a name is made of letters"),
        ({"tasks": {"tune": Task(FinetuneConfig())}}, "task 'tune': the plan has folders of this"),
        ({"recipes": {"a": Recipe(FinetuneConfig())}}, "recipe 'a': pretrain is a FinetuneConfig"),
        (
            {"tasks": {"5%": Task(SelfieConfig())}},
            "task '5%': expected a FinetuneConfig, not Selfie",
        ),
        ({"tasks": {"5%": Task(FinetuneConfig(), recipes="a")}}, "recipes='a', expected a tuple"),
        ({"recipes": {"a": Recipe(finetune={"train.seed": 7})}}, "train.seed is the plan's"),
        ({"tuning": Tuning({"data.label_fraction": (0.1,)})}, "data.label_fraction is the plan's"),
        ({"tuning": Tuning({"train.steps": (9,)}, draws=0)}, "draws=0, expected at least 1"),
        (
            {"tuning": Tuning({"train.steps": (9,)}, validation_fraction=0.0)},
            "no setting is chosen by test images",
        ),
        ({"primary": ("a", "b", "5%")}, "primary: 'a', expected (recipe, baseline, task)"),
        ({"primary": (("a", "a", "5%"),)}, "primary: ('a', 'a', '5%'), expected (recipe, baseline"),
        ({"published": {("a", "5%"): 50.0}}, "('a', '5%') has 50.0, expected (accuracy"),
        ({"probe_images": (0,)}, "probe_images=(0,): expected numbers from 1"),
    ],
)
def test_plans_that_cannot_work(change, expected):
    plan = {"recipes": {"a": Recipe()}, "tasks": {"5%": Task(FinetuneConfig())}, **change}
    with pytest.raises(UserError) as error:
        Experiment(**plan).validate()
    assert expected in str(error.value)


def test_values_of_wrong_types_in_a_file(tmp_path):
    path = tmp_path / "plan.py"
    with open(MINIATURE) as file:
        path.write_text(file.read().replace("pretrainings=2", "pretrainings=1.5"))
    with pytest.raises(UserError, match="plan.py: TypeError: 'float' object is not iterable; --d"):
        config_files.load_experiment(str(path))


def test_a_pretraining_config_that_cannot_work():
    config = SelfieConfig()
    config.patches.size = 7
    with pytest.raises(UserError, match="a/0/pretrain: data.image_size=32 is not divisible"):
        Experiment({"a": Recipe(config)}, {"5%": Task(FinetuneConfig())}).validate()


def test_a_recipe_may_take_the_networks_of_an_earlier_one(miniature):
    miniature.recipes["frozen"] = Recipe("selfie", {"train.frozen_steps": 2})
    miniature.tasks["frozen"] = Task(miniature.tasks["2%"].config, 3, 1, recipes=("frozen",))
    miniature.validate()
    cells = {cell.name: cell for cell in miniature.cells()}
    assert sum(cell.kind == "pretrain" for cell in cells.values()) == 3  # as many as it needs
    assert not any(name.startswith("frozen") and name.endswith("pretrain") for name in cells)
    one = cells["frozen/2/frozen/2"]
    assert one.network == one.unit == cells["selfie/2/pretrain"].unit == "selfie/2/pretrain"
    assert miniature.config(one).train.frozen_steps == 2


# Final and tuning cells per recipe and task: 5 seeds; 6 learning rates, or 5 batch sizes x 4.
# Published: the accuracies of each recipe.
@pytest.mark.parametrize(
    "name, tasks, final, tune, published",
    [
        (
            "selfie_cifar10_table1",
            4,
            40,
            48,
            {"scratch": [75.9, 79.3, 88.3, 95.5], "selfie": [75.9, 80.3, 89.1, 95.7]},
        ),
        (
            "selfie_imagenet32_table1",
            4,
            40,
            48,
            {"scratch": [13.1, 25.9, 32.7, 55.7], "selfie": [18.3, 30.2, 33.5, 56.4]},
        ),
        (
            "selfie_imagenet224_table1",
            4,
            40,
            48,
            {"scratch": [35.6, 59.6, 65.7, 76.9], "selfie": [46.7, 61.9, 67.1, 77.0]},
        ),
        (
            "selfie_table2",
            4,
            40,
            48,
            {
                "cifar10-resnet50": [80.3, 95.7],
                "cifar10-resnet36": [81.3, 95.4],
                "imagenet224-resnet50": [61.8, 77.0],
                "imagenet224-resnet36": [62.1, 77.5],
            },
        ),
        (
            "patchformer_imagenet",
            3,
            6,
            120,
            {"scratch": [], "patchformer": [30.3, 65.5, 70.2]},
        ),
    ],
)
def test_the_papers_tables(name, tasks, final, tune, published):
    plan = config_files.load_experiment(f"experiments/{name}")
    kinds = collections.Counter(cell.kind for cell in plan.cells())
    assert len(plan.tasks) == tasks
    assert (kinds["final"], kinds["tune"]) == (final, tune)
    assert published == {
        recipe: [plan.published[recipe, t][0] for t in plan.tasks if (recipe, t) in plan.published]
        for recipe in plan.recipes
    }


@pytest.mark.parametrize("name", config_files.known_experiments())
def test_experiments_say_their_command_and_result(name):
    plan = config_files.load_experiment(f"experiments/{name}")
    assert plan.cells()
    with open(os.path.join(config_files.folder(), "experiments", f"{name}.py")) as file:
        text = file.read()
    assert f"bin/experiment.py --config=configs/experiments/{name}.py" in text.replace("\\\n", "")
    assert "Result" in text or "docs/RESULTS.md" in text


@pytest.mark.parametrize(
    "value, expected",
    [
        ("experiments/quickstrat", "no such file, nor an experiment; there are experiments/"),
        (os.path.join(ROOT, "configs", "quickstart.py"), "returns SelfieConfig; expected an Exp"),
        (__file__, "it defines no get_config()"),
    ],
)
def test_files_that_are_no_experiments(value, expected):
    with pytest.raises(UserError) as error:
        config_files.load_experiment(value)
    assert expected in str(error.value)


def test_a_fingerprint_is_that_of_the_config(miniature, monkeypatch):
    cells = {cell.name: cell for cell in miniature.cells()}
    first = {name: miniature.fingerprint(cell) for name, cell in cells.items()}
    assert first["selfie/0/pretrain"] != first["selfie/1/pretrain"]  # another seed
    assert first["scratch/0/2%/0"] != first["selfie/0/2%/0"]  # pad_mode
    assert first["scratch/0/2%/0"] == first["scratch/0/few/0"]
    # A later version's key, where nobody sets it.
    monkeypatch.setattr(plans, "flatten", lambda config: flatten(config) | {"train.later": 0})
    assert {name: miniature.fingerprint(cell) for name, cell in cells.items()} == first
    miniature.tasks["2%"].config.train.steps += 1
    changed = {name for name, cell in cells.items() if miniature.fingerprint(cell) != first[name]}
    assert changed == {name for name, cell in cells.items() if cell.task}


def test_the_named_recipe_is_the_one_that_was_measured():
    plan = config_files.load_experiment("experiments/cifar10")
    assert plan.recipes["instance-view16"].pretrain == get("selfie_plus_cifar10")
    assert plan.tasks["1%"].config == get("finetune_plus_cifar10")


def test_random_weights_get_as_many_operations_as_pretraining_and_finetuning():
    plan = config_files.load_experiment("experiments/cifar10")
    gflop = {}
    for cell in plan.cells():
        config = plan.config(cell)
        cost = gflop_per_image(config) * config.train.batch_size * config.train.steps
        gflop[cell.recipe, cell.task] = cost
    for task in ("1%", "5%"):
        whole = gflop["published", ""] + gflop["published", task]
        assert gflop["scratch", f"{task}-long"] == pytest.approx(whole, rel=1e-3)
