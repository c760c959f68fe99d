"""What several kinds of runs have in common.

Configs are not frozen, because `--config.optimizer.learning_rate=0.1` assigns to them. Values that
follow from others are properties, so that such an override cannot leave them stale.
"""

import dataclasses
import math

from selfie_tf.config.fields import Section, bounded, choice, switch, text
from selfie_tf.config.serialize import check_fields, flatten
from selfie_tf.errors import UserError

MAX_PATCHES = 4096

# What fixes the shape of the network that pretraining and finetuning share.
NETWORK_KEYS = (
    "data.image_size",
    "patches.size",
    "model.width",
    "model.stem",
    "model.attention_layers",
    "model.num_heads",
    "model.mlp_dim",
    "model.position",
)


@dataclasses.dataclass
class ImagesConfig(Section):
    """Where images come from, and how they become squares of one size."""

    name: str = text(
        "tfds:cifar10",
        "The images: tfds:NAME[/CONFIG][:VERSION], folder:PATH or builtin:shapes.",
    )
    image_size: int = bounded(32, 1, 4096, "Side of the square images in pixels.")
    crop: str = choice(
        "pad",
        ("pad", "random_resized", "center"),
        "Training crop. pad: pad by patches.pad and crop back (section 2.1), see data.pad_mode; "
        "random_resized: a random rectangle, scaled; center: the central square.",
    )
    pad_mode: str = choice(
        "zeros",
        ("zeros", "mean", "reflect", "enlarge"),
        "pad: what surrounds the image. zeros: black; mean: mid-grey, which is 0 after "
        "normalisation; reflect: the mirrored image; enlarge: no margin, the image is scaled up.",
    )
    min_crop_area: float = bounded(
        0.2, 1e-3, 1, "random_resized: smallest fraction of the image's area to keep."
    )
    shuffle_buffer: int = bounded(
        50_000, 1, help="tfds: records shuffled together; a folder is always shuffled whole."
    )
    test_split: str = text(
        "",
        "Split or folder that is never trained on; empty: test, validation or val, whichever "
        "exists.",
    )
    held_out: int = bounded(
        1000,
        1,
        help="Images held out of training where there is no such split, at most a tenth of all "
        "and at least one; pretraining and finetuning hold out the same.",
    )
    corrupt_budget: float = bounded(
        0.001,
        0,
        1,
        "folder: fraction of the files that may be unreadable; one always may, unless this is 0.",
    )
    max_pixels: int = bounded(
        100_000_000, 1, help="folder: larger images count as unreadable, to bound memory."
    )


@dataclasses.dataclass
class DataConfig(ImagesConfig):
    """Images without labels."""

    eval_images: int = bounded(
        2048, 1, help="Held-out images to evaluate at the end of the run, at most."
    )
    probe: str = text(
        "", "train.probe_every: labelled images, named as in data.name; empty: the run's own."
    )
    probe_images: int = bounded(
        2000,
        4,
        help="train.probe_every: images to learn from and to test on, half each, at most. They are "
        "kept in memory.",
    )


@dataclasses.dataclass
class GridConfig(Section):
    """The patch grid, and the jitter before cutting (section 2.1)."""

    size: int = bounded(8, 1, help="Side of a patch in pixels; must divide data.image_size.")
    pad: int = bounded(4, 0, help="Pixels of padding on each side with data.crop=pad.")


@dataclasses.dataclass
class NetworkConfig(Section):
    """Sections 2.1, 2.2 and 3.2: the patch network P, attention pooling A, positions."""

    width: int = bounded(
        64, 1, 1024, "Channels of the stem; all channel counts scale with it, D = 16 * width."
    )
    stem: str = choice(
        "small",
        ("small", "imagenet"),
        "small: 3x3 convolution with stride 1; imagenet: 7x7 with stride 2, and max-pooling.",
    )
    attention_layers: int = bounded(3, 1, 100, "Attention blocks.")
    num_heads: int = bounded(32, 1, help="Attention heads per block; must divide 16 * width.")
    mlp_dim: int = bounded(640, 1, 2**17, "Units of a block's intermediate dense layer.")
    dropout_rate: float = bounded(0.1, 0, 0.999, "Dropout rate of the attention blocks.")
    position: str = choice(
        "learned",
        ("learned", "factorized"),
        "Position embeddings. learned: one per patch; factorized: row plus column.",
    )
    norm_momentum: float = bounded(
        0.9, 0, 1, "Momentum of batch normalisation's moving statistics."
    )
    norm_synchronized: bool = switch(
        False, "Whether batch normalisation takes its statistics over all replicas."
    )

    @property
    def hidden_dim(self) -> int:
        """D, the width of P's feature vectors and of A: the output channels of the third group."""
        return 16 * self.width


@dataclasses.dataclass
class OptimizerConfig(Section):
    """Section 3.2 of Selfie, 2.1 of PatchFormer."""

    name: str = choice(
        "sgd", ("sgd", "adamw", "lamb"), "The optimizer; lamb needs requirements/addons.txt."
    )
    learning_rate: float = bounded(
        0.1, 0, 1e6, "Peak learning rate, after warm-up; a cosine to 0 follows."
    )
    warmup_steps: int = bounded(100, 0, help="Steps of linear warm-up; fewer than train.steps.")
    momentum: float = bounded(0.9, 0, 1, "sgd: Nesterov momentum.")
    beta_1: float = bounded(0.9, 0, 0.999999, "adamw, lamb: decay of the first moment.")
    beta_2: float = bounded(0.999, 0, 0.999999, "adamw, lamb: decay of the second moment.")
    epsilon: float = bounded(1e-6, 1e-12, 1, "adamw, lamb: added to the denominator.")
    weight_decay: float = bounded(
        1e-4,
        0,
        1e6,
        "Of kernels only. sgd: L2 in the loss; adamw, lamb: decoupled, times the learning rate.",
    )

    @property
    def decay_in_loss(self) -> float:
        """Factor of the L2 penalty in the loss."""
        return self.weight_decay if self.name == "sgd" else 0.0


@dataclasses.dataclass
class LoopConfig(Section):
    """Length, batch, seed, precision, and how often things are written."""

    steps: int = bounded(120_000, 1, help="Training steps of the whole run.")
    batch_size: int = bounded(512, 1, help="Images per step, over all replicas.")
    seed: int = bounded(0, 0, 2**31 - 1, "Seed of weights, crops, patches, dropout and order.")
    precision: str = choice(
        "float32",
        ("float32", "mixed_bfloat16", "float64"),
        "Floating-point policy; float64 is for comparing runs, since an untrained P amplifies the "
        "rounding of float32 within a few steps.",
    )
    checkpoint_every: int = bounded(1000, 1, help="Steps between two checkpoints.")
    keep_checkpoints: int = bounded(3, 1, help="Newest checkpoints to keep.")
    log_every: int = bounded(50, 1, help="Steps between two log points.")
    steps_per_execution: int = bounded(
        0,
        0,
        help="Steps on the device between two visits to Python, a divisor of every *_every; 0: 1 "
        "on CPU and GPU, as many as fit on TPU.",
    )

    @property
    def intervals(self) -> dict:
        """{key: steps} of everything that happens every N steps."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k.endswith("_every")}


@dataclasses.dataclass
class PretrainLoopConfig(LoopConfig):
    """The loop of pretraining."""

    picture_every: int = bounded(1000, 1, help="Steps between two pictures.")
    probe_every: int = bounded(
        0,
        0,
        help="Steps between two probes of the features by a few labels, which change nothing in "
        "training; 0: none.",
    )


class RunConfig(Section):
    """What all runs have; see `PretrainConfig` and `FinetuneConfig`."""

    has_attention = True  # whether there is an A, with weights

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.data.image_size // self.patches.size

    @property
    def num_patches(self) -> int:
        """N, the patches of an image."""
        return self.grid**2

    @property
    def network_arguments(self) -> dict:
        """The arguments that the constructors of all models take."""
        m = self.model
        return {
            "grid": self.grid,
            "width": m.width,
            "stem": m.stem,
            "attention_layers": m.attention_layers,
            "num_heads": m.num_heads,
            "mlp_dim": m.mlp_dim,
            "dropout_rate": m.dropout_rate,
            "position": m.position,
            "weight_decay": self.optimizer.decay_in_loss,
            "norm_momentum": m.norm_momentum,
            "norm_synchronized": m.norm_synchronized,
            "seed": self.train.seed,
        }

    def explicit_keys(self) -> set:
        """The keys, such as "model.width", that were assigned after construction."""
        return {key for key in flatten(self) if self._holder(key)[1] in self._noted(key)}

    def set_explicit(self, keys) -> None:
        """Makes `keys` the ones that count as assigned; says nothing of their values."""
        known, keys = set(flatten(self)), set(keys)
        for key in known:
            name, noted = self._holder(key)[1], self._noted(key)
            (noted.add if key in keys else noted.discard)(name)

    def _holder(self, key):
        section, _, name = key.rpartition(".")
        return (getattr(self, section) if section else self), name

    def _noted(self, key):
        return self._holder(key)[0].__dict__.setdefault("_assigned", set())

    def validate(self) -> None:
        """Checks that all values can work, each by itself and together.

        Raises:
          UserError: Naming the first key whose value cannot work.
        """
        check_fields(self)
        d, p, m, o, t = self.data, self.patches, self.model, self.optimizer, self.train
        if not all(d.name.partition(":")[::2]):
            raise UserError(
                f"data.name={d.name!r}: expected tfds:NAME, folder:PATH or builtin:shapes"
            )
        for name, value in (("size", p.size), ("pad", p.pad)):
            if value > d.image_size:
                raise UserError(
                    f"patches.{name}={value}: expected at most data.image_size={d.image_size}"
                )
        if d.crop == "pad" and d.pad_mode == "reflect" and p.pad >= d.image_size:
            raise UserError(
                f"patches.pad={p.pad}: data.pad_mode=reflect needs less than "
                f"data.image_size={d.image_size}"
            )
        if d.image_size % p.size:
            raise UserError(
                f"data.image_size={d.image_size} is not divisible by patches.size={p.size}: "
                f"change one of them, e.g. data.image_size={d.image_size // p.size * p.size}"
            )
        if self.num_patches > MAX_PATCHES:
            raise UserError(
                f"patches.size={p.size} cuts images of {d.image_size} pixels into "
                f"{self.num_patches} patches, more than {MAX_PATCHES}: use larger patches"
            )
        if self.has_attention and m.hidden_dim % m.num_heads:
            raise UserError(
                f"model.num_heads={m.num_heads} does not divide the hidden size {m.hidden_dim} "
                f"(16 * model.width={m.width})"
            )
        if o.warmup_steps >= t.steps:
            raise UserError(
                f"optimizer.warmup_steps={o.warmup_steps} must be smaller than "
                f"train.steps={t.steps}"
            )
        if t.steps_per_execution:
            for key, steps in t.intervals.items():
                if steps % t.steps_per_execution:
                    raise UserError(
                        f"train.{key}={steps} is not a multiple of "
                        f"train.steps_per_execution={t.steps_per_execution}"
                    )


class PretrainConfig(RunConfig):
    """What all kinds of pretraining have; see `SelfieConfig` and `PatchFormerConfig`."""

    def validate(self) -> None:
        """See `RunConfig.validate`."""
        super().validate()
        if self.method != type(self).method:
            raise UserError(
                f"method={self.method!r}: this is a config for {type(self).method}; for another "
                "method give its config file with --config"
            )
        probe, every = self.data.probe, self.train.probe_every
        if probe and not all(probe.partition(":")[::2]):
            raise UserError(
                f"data.probe={probe!r}: expected tfds:NAME, folder:PATH or builtin:shapes"
            )
        if probe and not every:
            raise UserError(
                f"data.probe={probe} needs --config.train.probe_every, the steps between two probes"
            )


def feature_map_side(image_size: int, stem: str) -> int:
    """Side of P's feature map of an image: three groups, of strides 1, 2 and 2."""
    for _ in range(4 if stem == "imagenet" else 2):
        image_size = math.ceil(image_size / 2)
    return image_size


INIT_FROM_WORDS = (
    "Run or export whose network and weights this run begins with, with a schedule of its own; "
    "empty: random weights."
)
