"""The plan of an experiment: which runs it takes to compare ways of pretraining.

Importing this does not import TensorFlow.
"""

import copy
import dataclasses
import hashlib
import itertools
import json
import re

from selfie_tf.config import FinetuneConfig, PretrainConfig, assign, flatten
from selfie_tf.errors import UserError

SCRATCH = "scratch"
METRICS = ("top1", "balanced_accuracy")
KINDS = ("pretrain", "probe", "tune", "final")  # of cells
# Of the folders `cells` has below a recipe; and what pairs the runs of all recipes.
_FOLDERS = KINDS[:3]
_PAIRED = ("train.seed", "data.subset_seed", "data.validation_fraction", "data.label_fraction")


@dataclasses.dataclass
class Recipe:
    """One way to initialise and finetune a classifier.

    Attributes:
      pretrain: The config of pretraining; its seed is set by the plan. Or the name of an earlier
        recipe, whose pretrained networks are taken. None: random weights.
      finetune: {key: value} that this recipe sets in the configs of finetuning.
    """

    pretrain: PretrainConfig | str | None = None
    finetune: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Task:
    """One finetuning that all recipes are compared on.

    Attributes:
      config: Its seeds are set by the plan. With `data.validation_fraction` the recipes are
        compared on validation images, otherwise on the test split.
      pretrainings: Number of pretrainings per recipe, each with another seed. Or their numbers,
        such as (3, 4) for those whose networks are still there.
      seeds: Number of finetunings per pretraining, each with another seed and subset of labels.
      recipes: Names of the recipes; empty for all.
      metric: What recipes are compared by: "top1", or "balanced_accuracy" where some classes are
        rare.
    """

    config: FinetuneConfig
    pretrainings: int | tuple = 1
    seeds: int = 5
    recipes: tuple = ()
    metric: str = "top1"

    @property
    def numbers(self) -> set:
        """The numbers of the pretrainings, from 0."""
        taken = self.pretrainings
        return set(range(taken) if isinstance(taken, int) else taken)


@dataclasses.dataclass
class Tuning:
    """The search before the final runs, on a part of the labelled images (section 3.2).

    Attributes:
      grid: {key of a finetuning config: values}; all combinations are tried.
      draws: Number of draws of the labelled and validation images per combination. A validation set
        of 50 images has a standard error of 7 points, so small ones need several.
      validation_fraction: See `config.LabelledDataConfig`.
    """

    grid: dict
    draws: int = 1
    validation_fraction: float = 0.1

    def settings(self) -> list:
        """All combinations: tuples of (key, value), in the order of the grid."""
        pairs = [[(key, value) for value in values] for key, values in self.grid.items()]
        return list(itertools.product(*pairs))

    def validate(self) -> None:
        """Checks the values.

        Raises:
          UserError: Naming one that cannot work.
        """
        if not self.settings():
            raise UserError("tuning: its grid has a key without values")
        if self.draws < 1:
            raise UserError(f"tuning: draws={self.draws}, expected at least 1")
        if not 0 < self.validation_fraction < 1:
            raise UserError(
                f"tuning: validation_fraction={self.validation_fraction}, expected one between 0 "
                "and 1, so that no setting is chosen by test images"
            )
        for key in _PAIRED:
            if key in self.grid:
                raise UserError(f"tuning: {key} is the plan's, and equal for all recipes")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
      name: Unique in the plan, a relative path.
      kind: One of `KINDS`.
      recipe, task: Names; `task` is empty for "pretrain" and "probe".
      pretraining: Number of the pretraining, and its seed.
      network: Name of the "pretrain" cell whose network it takes; "" for random weights.
      seed: Of a finetuning: of weights, batches and the subset of labels.
      setting: (key, value) pairs of a "tune" cell.
    """

    name: str
    kind: str
    recipe: str
    pretraining: int
    network: str = ""
    task: str = ""
    seed: int = 0
    setting: tuple = ()

    @property
    def unit(self) -> str:
        """What a machine has to do by itself: all that takes the same pretrained network."""
        return self.network or f"{self.recipe}/{self.pretraining}"


@dataclasses.dataclass
class Experiment:
    """Recipes, compared on tasks.

    Every recipe meets the same labelled subsets and seeds, so that results can be compared in
    pairs. Finetuning f of pretraining p has seed p * seeds + f, also for recipes without
    pretraining.

    Attributes:
      recipes: {name: `Recipe`}.
      tasks: {name: `Task`}.
      tuning: None takes the tasks' configs as they are.
      probe_images: Numbers of labelled training images for linear probes of each pretrained
        network; empty for none.
      pretrainings: Number of pretrainings per recipe, where no task needs more.
      primary: (recipe, baseline, task) of the comparisons that the experiment was made for. All
        others are secondary, and their p-values are adjusted for their number. The first recipe is
        the baseline of the others.
      published: {(recipe, task): (accuracy in %, standard deviation or None)} of a paper, to stand
        beside.
    """

    recipes: dict
    tasks: dict
    tuning: Tuning | None = None
    probe_images: tuple = ()
    pretrainings: int = 1
    primary: tuple = ()
    published: dict = dataclasses.field(default_factory=dict)

    def validate(self) -> None:
        """Checks names, numbers and every config of a run.

        Raises:
          UserError: Naming the first that cannot work.
        """
        for kind, names in (("recipe", self.recipes), ("task", self.tasks)):
            if not names:
                raise UserError(f"an experiment needs at least one {kind}")
            for name in names:
                if not re.fullmatch(r"[\w.%+-]+", name) or not name.strip("."):
                    raise UserError(
                        f"{kind} {name!r}: a name is made of letters, digits and _ . % + -"
                    )
                if name in _FOLDERS:
                    raise UserError(f"{kind} {name!r}: the plan has folders of this name")
        self._validate_recipes()
        for name, task in self.tasks.items():
            if not isinstance(task.config, FinetuneConfig):
                raise UserError(
                    f"task {name!r}: expected a FinetuneConfig, not {task.config!r:.40}"
                )
            if isinstance(task.recipes, str):
                raise UserError(
                    f"task {name!r}: recipes={task.recipes!r}, expected a tuple of names"
                )
            unknown = [recipe for recipe in task.recipes if recipe not in self.recipes]
            if unknown:
                raise UserError(f"task {name!r}: there is no recipe {unknown[0]!r}")
            if not task.numbers or task.seeds < 1:
                raise UserError(f"task {name!r}: pretrainings and seeds must be at least 1")
            if min(task.numbers) < 0:
                raise UserError(f"task {name!r}: a pretraining has the number {min(task.numbers)}")
            if task.metric not in METRICS:
                raise UserError(
                    f"task {name!r}: metric={task.metric!r}, expected {' or '.join(METRICS)}"
                )
        if len({task.metric for task in self.tasks.values()}) > 1:
            raise UserError("tasks: all need the same metric, since they share a table")
        for comparison in self.primary:
            if isinstance(comparison, str) or len(comparison) != 3 or len({*comparison[:2]}) < 2:
                raise UserError(
                    f"primary: {comparison!r}, expected (recipe, baseline, task); primary is a "
                    "tuple of such tuples"
                )
        for names, score in self.published.items():
            if not isinstance(score, tuple) or len(score) != 2:
                raise UserError(
                    f"published: {names!r} has {score!r}, expected (accuracy, deviation or None)"
                )
        named = [*((a, task) for a, _, task in self.primary), *self.published]
        named += [(baseline, task) for _, baseline, task in self.primary]
        for recipe, task in named:
            if not self.takes(recipe, task):
                raise UserError(
                    f"primary or published: there is no recipe {recipe!r} on a task {task!r}"
                )
        if not all(count > 0 for count in self.probe_images):
            raise UserError(f"probe_images={self.probe_images}: expected numbers from 1")
        if self.tuning is not None:
            self.tuning.validate()
        for cell in self.cells():
            try:
                self.config(cell).validate()
            except UserError as error:
                raise UserError(f"{cell.name}: {error}") from error

    def _validate_recipes(self):
        earlier = {}
        for name, recipe in self.recipes.items():
            other = recipe.pretrain
            if isinstance(other, str):
                if not isinstance(earlier.get(other), PretrainConfig):
                    raise UserError(
                        f"recipe {name!r}: pretrain={other!r} is no earlier recipe that pretrains"
                    )
            elif other is not None and not isinstance(other, PretrainConfig):
                raise UserError(
                    f"recipe {name!r}: pretrain is a {type(other).__name__}, expected a config of "
                    "pretraining, an earlier recipe's name, or None"
                )
            for key in _PAIRED:
                if key in recipe.finetune:
                    raise UserError(
                        f"recipe {name!r}: {key} is the plan's, and equal for all recipes"
                    )
            earlier[name] = other

    def takes(self, recipe: str, task: str) -> bool:
        """Whether a recipe is finetuned on a task."""
        if recipe not in self.recipes or task not in self.tasks:
            return False
        return not self.tasks[task].recipes or recipe in self.tasks[task].recipes

    def cells(self) -> list:
        """Lists all `Cell`s, each after those that it depends on.

        Tasks of primary comparisons come before the others. Within both, the first pretraining of
        every recipe comes first, then the second, and so on. So an experiment that was stopped has
        results of every recipe on the primary tasks.
        """
        tasks = {
            recipe: [task for task in self.tasks if self.takes(recipe, task)]
            for recipe in self.recipes
        }
        numbers = {recipe: self._numbers(names) for recipe, names in tasks.items()}
        first = {recipe: min(found, default=0) for recipe, found in numbers.items()}
        for recipe in self.recipes:
            numbers[self._owner(recipe)] |= numbers[recipe]
        found = []
        for number in sorted(set().union(*numbers.values())):
            for recipe, names in tasks.items():
                if number in numbers[recipe]:
                    found += self._unit(recipe, number, names, number == first[recipe])
        primary = {task for _, _, task in self.primary}
        needed = {cell.network for cell in found if cell.task in primary}
        return sorted(
            found,
            key=lambda cell: cell.task not in primary if cell.task else cell.network not in needed,
        )

    def _numbers(self, tasks):
        """The numbers of the pretrainings of a recipe that takes some tasks."""
        found = set().union(*(self.tasks[name].numbers for name in tasks))
        return found if len(found) >= self.pretrainings else found | set(range(self.pretrainings))

    def _unit(self, recipe, number, tasks, tune):
        """The cells of one pretraining of a recipe, with those of the search if `tune`."""
        found, folder, owner = [], f"{recipe}/{number}", self._owner(recipe)
        pretrain = self.recipes[recipe].pretrain
        network = "" if pretrain is None else f"{owner}/{number}/pretrain"
        if owner == recipe and network:
            found.append(Cell(network, "pretrain", recipe, number, network))
            if self.probe_images:
                found.append(Cell(f"{folder}/probe", "probe", recipe, number, network))
        if self.tuning is not None and tune:
            for task, setting, draw in itertools.product(
                tasks, self.tuning.settings(), range(self.tuning.draws)
            ):
                name = f"{folder}/tune/{task}/{setting_name(setting)}/{draw}"
                found.append(Cell(name, "tune", recipe, number, network, task, draw, setting))
        for name in tasks:
            task = self.tasks[name]
            if number in task.numbers:
                for seed in range(number * task.seeds, (number + 1) * task.seeds):
                    final = f"{folder}/{name}/{seed}"
                    found.append(Cell(final, "final", recipe, number, network, name, seed))
        return found

    def _owner(self, recipe):
        """The recipe that makes the pretrained networks of a recipe."""
        pretrain = self.recipes[recipe].pretrain
        return pretrain if isinstance(pretrain, str) else recipe

    def config(self, cell: Cell, setting: tuple = ()):
        """The config of a cell's run.

        Args:
          cell: One of `cells`.
          setting: The tuned (key, value) pairs of a "final" cell.

        Returns:
          A `config.FinetuneConfig` without `init_from`; of a "pretrain" or "probe" cell the config
          of its pretraining.
        """
        recipe = self.recipes[cell.recipe]
        if not cell.task:
            config = copy.deepcopy(recipe.pretrain)
            config.train.seed = cell.pretraining
            return config
        config = copy.deepcopy(self.tasks[cell.task].config)
        config.train.seed = config.data.subset_seed = cell.seed
        if cell.kind == "tune":
            config.data.validation_fraction = self.tuning.validation_fraction
        for key, value in (*recipe.finetune.items(), *cell.setting, *setting):
            assign(config, key, value)
        config.set_explicit(())  # so that the network may come along from the pretrained run
        return config

    def fingerprint(self, cell: Cell) -> str:
        """Tells the configs of a cell apart: 12 hexadecimal digits of what is not as by default.

        So a row of an older version stays valid when a key is added. What the tuning chooses for a
        "final" cell is not in it.
        """
        config = self.config(cell)
        usual = flatten(type(config)())
        values = {key: value for key, value in flatten(config).items() if value != usual[key]}
        text = json.dumps([type(config).__name__, values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def setting_name(setting: tuple) -> str:
    """A setting in words: "optimizer.learning_rate=0.1,train.steps=500"."""
    return ",".join(f"{key}={value}" for key, value in setting)
