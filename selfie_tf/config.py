"""Every number that affects a result, as plain dataclasses.

Not frozen, because `--config.optimizer.learning_rate=0.1` assigns to them; values that follow from
others are properties, so that they can't go stale after such an override.
"""

import dataclasses
import math
import typing

from selfie_tf.errors import UserError

CROPS = ("pad", "random_resized", "center")
POSITIONS = ("learned", "factorized")
POOLINGS = ("attention", "mean", "max")
LOGIT_SCALES = ("none", "sqrt_dim")
STEMS = ("small", "imagenet")
PRECISIONS = ("float32", "mixed_bfloat16", "float64")
OPTIMIZERS = ("sgd",)


@dataclasses.dataclass
class DataConfig:
    """Where images come from and how they become squares of one size."""

    name: str = "tfds:cifar10"  # tfds:NAME[/CONFIG][:VERSION] | folder:PATH | builtin:shapes
    image_size: int = 32  # pixels a side
    # pad: pad with zeros and crop back (section 2.1); random_resized: a random part of the image,
    # scaled; center: the same centre square every time.
    crop: str = "pad"
    min_crop_area: float = 0.2  # random_resized: least part of the image's area
    shuffle_buffer: int = 50_000  # tfds: records shuffled together; a folder is shuffled whole
    # Images kept out of training for pictures and evaluation where the source has no test split
    # (never more than a tenth of them, but at least one).
    held_out: int = 64
    eval_images: int = 2048  # at most so many held-out images are evaluated at the end
    # folder: largest part of the files that may be unreadable; one always may, unless this is 0
    corrupt_budget: float = 0.001
    max_pixels: int = 100_000_000  # folder: larger images count as unreadable (memory)


@dataclasses.dataclass
class PatchesConfig:
    """Section 2.1: the grid, its split, and the jitter before cutting."""

    size: int = 8  # pixels a side
    context_fraction: float = 0.75  # p, the part of the patches that the encoder sees
    pad: int = 4  # pixels of zero padding with data.crop=pad


@dataclasses.dataclass
class ModelConfig:
    """Sections 2.1, 2.2, 3.2: patch network P, attention pooling A, positions, logits."""

    width: int = 64  # channels of the stem; every channel count and the hidden size scale with it
    stem: str = "small"  # small: 3x3, stride 1 | imagenet: 7x7, stride 2, and max-pooling
    attention_layers: int = 3
    num_heads: int = 32
    mlp_dim: int = 640
    dropout_rate: float = 0.1
    position: str = "learned"
    pooling: str = "attention"
    logit_scale: str = "none"
    norm_momentum: float = 0.9  # of batch normalisation's moving statistics
    norm_synchronized: bool = False  # batch statistics over all replicas

    @property
    def hidden_dim(self) -> int:
        """Width of P's feature vectors and of A: the output channels of the third group."""
        return 16 * self.width


@dataclasses.dataclass
class OptimizerConfig:
    """Section 3.2."""

    name: str = "sgd"
    learning_rate: float = 0.1  # the peak, after warm-up
    warmup_steps: int = 100
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 1e-4  # L2 in the loss, on kernels


@dataclasses.dataclass
class TrainConfig:
    """Length, batch, seed, precision, and how often things are written."""

    steps: int = 120_000
    batch_size: int = 512  # over all replicas
    seed: int = 0
    # float64 is for comparing runs: an untrained P amplifies float32's rounding within a few steps.
    precision: str = "float32"
    checkpoint_every: int = 1000  # steps
    keep_checkpoints: int = 3
    log_every: int = 50  # steps
    picture_every: int = 1000  # steps
    # Steps run on the device between two visits to Python; must divide the three above. 0 lets
    # the hardware decide: 1 on CPU and GPU, as many as fit on TPU.
    steps_per_execution: int = 0


@dataclasses.dataclass
class Config:
    """One run, whole."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    patches: PatchesConfig = dataclasses.field(default_factory=PatchesConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.data.image_size // self.patches.size

    @property
    def num_patches(self) -> int:
        return self.grid**2

    @property
    def num_context(self) -> int:
        """C: patches that the encoder sees, round(p * n) (12 of 16, 37 of 49)."""
        return round(self.patches.context_fraction * self.num_patches)

    @property
    def num_targets(self) -> int:
        """T: patches hidden, and predicted all at once."""
        return self.num_patches - self.num_context

    def validate(self) -> None:
        """Raises UserError naming the first key whose value cannot work."""
        _check_types(self)
        d, p, m, o, t = self.data, self.patches, self.model, self.optimizer, self.train
        kind, _, rest = d.name.partition(":")
        if kind not in ("tfds", "folder", "builtin") or not rest:
            raise UserError(
                f"data.name={d.name!r}: expected tfds:NAME, folder:PATH or builtin:shapes"
            )
        for key, value, choices in (
            ("data.crop", d.crop, CROPS),
            ("model.stem", m.stem, STEMS),
            ("model.position", m.position, POSITIONS),
            ("model.pooling", m.pooling, POOLINGS),
            ("model.logit_scale", m.logit_scale, LOGIT_SCALES),
            ("optimizer.name", o.name, OPTIMIZERS),
            ("train.precision", t.precision, PRECISIONS),
        ):
            if value not in choices:
                raise UserError(f"{key}={value!r}: expected one of {', '.join(choices)}")
        for key, value, low, high in (
            ("data.image_size", d.image_size, 1, 4096),
            ("data.min_crop_area", d.min_crop_area, 1e-3, 1),
            ("data.shuffle_buffer", d.shuffle_buffer, 1, math.inf),
            ("data.held_out", d.held_out, 1, math.inf),
            ("data.eval_images", d.eval_images, 1, math.inf),
            ("data.corrupt_budget", d.corrupt_budget, 0, 1),
            ("data.max_pixels", d.max_pixels, 1, math.inf),
            ("patches.size", p.size, 1, d.image_size),
            ("patches.pad", p.pad, 0, d.image_size),
            ("model.width", m.width, 1, 1024),
            ("model.attention_layers", m.attention_layers, 1, 100),
            ("model.num_heads", m.num_heads, 1, math.inf),
            ("model.mlp_dim", m.mlp_dim, 1, 2**17),
            ("model.dropout_rate", m.dropout_rate, 0, 0.999),
            ("model.norm_momentum", m.norm_momentum, 0, 1),
            ("optimizer.learning_rate", o.learning_rate, 0, 1e6),
            ("optimizer.warmup_steps", o.warmup_steps, 0, math.inf),
            ("optimizer.momentum", o.momentum, 0, 1),
            ("optimizer.weight_decay", o.weight_decay, 0, 1e6),
            ("train.steps", t.steps, 1, math.inf),
            ("train.batch_size", t.batch_size, 1, math.inf),
            ("train.seed", t.seed, 0, 2**31 - 1),
            ("train.checkpoint_every", t.checkpoint_every, 1, math.inf),
            ("train.keep_checkpoints", t.keep_checkpoints, 1, math.inf),
            ("train.log_every", t.log_every, 1, math.inf),
            ("train.picture_every", t.picture_every, 1, math.inf),
            ("train.steps_per_execution", t.steps_per_execution, 0, math.inf),
        ):
            if not low <= value <= high:  # False for NaN too
                bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise UserError(f"{key}={value}: expected a number {bounds}")
        if d.image_size % p.size:
            raise UserError(
                f"data.image_size={d.image_size} is not divisible by patches.size={p.size}: "
                f"change one of them, e.g. data.image_size={d.image_size // p.size * p.size}"
            )
        if self.num_patches > 4096:
            raise UserError(
                f"patches.size={p.size} cuts images of {d.image_size} pixels into "
                f"{self.num_patches} patches, more than 4096: use larger patches"
            )
        if kind == "builtin" and d.image_size < 16:
            raise UserError(f"data.image_size={d.image_size}: the built-in images need at least 16")
        if self.num_context < 1 or self.num_targets < 2:
            raise UserError(
                f"patches.context_fraction={p.context_fraction} leaves {self.num_context} context "
                f"and {self.num_targets} target patches of {self.num_patches}: at least 1 and 2 "
                "are needed"
            )
        if m.hidden_dim % m.num_heads:
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
            for key in ("log_every", "checkpoint_every", "picture_every"):
                if getattr(t, key) % t.steps_per_execution:
                    raise UserError(
                        f"train.{key}={getattr(t, key)} is not a multiple of "
                        f"train.steps_per_execution={t.steps_per_execution}"
                    )


def _check_types(config) -> None:
    for section in dataclasses.fields(config):
        holder = getattr(config, section.name)
        for name, expected in typing.get_type_hints(type(holder)).items():
            value = getattr(holder, name)
            if expected is float and type(value) is int:
                setattr(holder, name, float(value))
            elif type(value) is not expected:
                raise UserError(
                    f"{section.name}.{name}={value!r}: expected {expected.__name__}, "
                    f"got {type(value).__name__}"
                )


def to_dict(config: Config) -> dict:
    """The resolved config as nested plain values, as written to config.json."""
    return dataclasses.asdict(config)


def from_dict(values: dict) -> Config:
    """The inverse of `to_dict`.

    Raises:
      UserError: on a section or key that does not exist, or a value that cannot work.
    """
    config = Config()
    for section, entries in values.items():
        holder = getattr(config, section, None)
        if not dataclasses.is_dataclass(holder) or not isinstance(entries, dict):
            raise UserError(f"unknown config section {section!r}")
        for key, value in entries.items():
            if key not in {field.name for field in dataclasses.fields(holder)}:
                raise UserError(f"unknown config key {section}.{key}")
            setattr(holder, key, value)
    config.validate()
    return config


def flatten(config: Config) -> dict:
    """{'section.key': value}, for naming what differs between two configs."""
    return {
        f"{section}.{key}": value
        for section, entries in to_dict(config).items()
        for key, value in entries.items()
    }
