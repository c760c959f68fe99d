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
QUERIES = ("per_location", "pooled")
TARGETS = ("center_crop", "subsample")
OPTIMIZERS = ("sgd", "adamw", "lamb")
HEADS = ("resnet50", "resnet36_attention", "patchformer")


@dataclasses.dataclass
class ImagesConfig:
    """Where images come from and how they become squares of one size."""

    name: str = "tfds:cifar10"  # tfds:NAME[/CONFIG][:VERSION] | folder:PATH | builtin:shapes
    image_size: int = 32  # pixels a side
    # pad: pad with zeros and crop back (section 2.1); random_resized: a random part of the image,
    # scaled; center: the same centre square every time.
    crop: str = "pad"
    min_crop_area: float = 0.2  # random_resized: least part of the image's area
    shuffle_buffer: int = 50_000  # tfds: records shuffled together; a folder is shuffled whole
    # The split or folder that is never trained on; "" for test, validation or val. Where there is
    # none, so many images are held out instead (never more than a tenth, but at least one).
    test_split: str = ""
    held_out: int = 1000  # the same in pretraining and finetuning: neither trains on these
    # folder: largest part of the files that may be unreadable; one always may, unless this is 0
    corrupt_budget: float = 0.001
    max_pixels: int = 100_000_000  # folder: larger images count as unreadable (memory)


@dataclasses.dataclass
class DataConfig(ImagesConfig):
    """Images without labels."""

    eval_images: int = 2048  # at most so many held-out images are evaluated at the end


@dataclasses.dataclass
class LabelledDataConfig(ImagesConfig):
    """Images with labels, and which of these may be used (section 3.1)."""

    # The labelled part: round(fraction * n) of the n images of each class, or so many a class, or
    # the ids in a file as `subset.json` has them. Only one of the three may be given.
    label_fraction: float = 1.0
    labels_per_class: int = 0
    subset_file: str = ""
    subset_seed: int = 0
    # Part of the labelled images that is not trained on, but evaluated instead of the test split:
    # 0.1 for tuning (section 3.2), 0 to train on all and report test figures.
    validation_fraction: float = 0.0
    flip: bool = True  # mirrors half of the training images, left to right
    test_crop: float = 1.0  # part of the shorter side that evaluation keeps, in the middle


@dataclasses.dataclass
class GridConfig:
    """The patch grid, and the jitter before cutting (section 2.1)."""

    size: int = 8  # pixels a side
    pad: int = 4  # pixels of zero padding with data.crop=pad


@dataclasses.dataclass
class PatchesConfig(GridConfig):
    """The grid and its split (section 2.1)."""

    context_fraction: float = 0.75  # p, the part of the patches that the encoder sees


@dataclasses.dataclass
class MasksConfig(GridConfig):
    """PatchFormer: the grid, what is hidden of it, and what is to be decoded (section 2.1)."""

    # Part of the cells of mask_block x mask_block patches that is hidden, rounded to whole cells.
    mask_ratio: float = 0.6
    mask_block: int = 2  # patches a side
    target_size: int = 8  # pixels a side that are decoded of each hidden patch, a power of two
    # center_crop: the middle of the patch; subsample: every so many pixels of all of it. The paper
    # says both.
    target: str = "center_crop"
    target_bits: int = 2  # of grey: 2**bits levels


@dataclasses.dataclass
class ClassifierGridConfig(GridConfig):
    """Finetuning: the grid of pretraining."""

    mask_ratio: float = 0.0  # head=patchformer: part of the patches that training leaves out


@dataclasses.dataclass
class AugmentConfig:
    """PatchFormer: noise on visible patches, each drawn on its own (section 2.1, Figure 1).

    The paper gives the rates and the bit depths; the strengths are those of Inception's training.
    """

    jitter: int = 2  # pixels: a random square this much smaller, scaled back; 0: off
    brightness: float = 32 / 255  # at most so much is added, of the full range; 0: off
    contrast: float = 0.5  # a factor from 1 - this to 1 + this; 0: off
    saturation: float = 0.5  # likewise
    hue: float = 0.2  # at most this part of the colour circle either way; 0: off
    flip_rate: float = 0.2  # part of the patches that is mirrored; 0: off
    min_bits: int = 2  # a bit depth from this to 8; 8: off
    grayscale_rate: float = 0.2  # part of the patches that is blended with its grey; 0: off


@dataclasses.dataclass
class NetworkConfig:
    """Sections 2.1, 2.2, 3.2: patch network P, attention pooling A, positions."""

    width: int = 64  # channels of the stem; every channel count and the hidden size scale with it
    stem: str = "small"  # small: 3x3, stride 1 | imagenet: 7x7, stride 2, and max-pooling
    attention_layers: int = 3
    num_heads: int = 32
    mlp_dim: int = 640
    dropout_rate: float = 0.1
    position: str = "learned"
    norm_momentum: float = 0.9  # of batch normalisation's moving statistics
    norm_synchronized: bool = False  # batch statistics over all replicas

    @property
    def hidden_dim(self) -> int:
        """Width of P's feature vectors and of A: the output channels of the third group."""
        return 16 * self.width


@dataclasses.dataclass
class ModelConfig(NetworkConfig):
    """Pretraining: P, A, and how hidden patches are scored."""

    pooling: str = "attention"
    logit_scale: str = "none"


@dataclasses.dataclass
class PatchFormerModelConfig(NetworkConfig):
    """PatchFormer's pretraining: P, the Transformer, and how hidden places ask."""

    attention_layers: int = 10
    num_heads: int = 16
    mlp_dim: int = 4096
    position: str = "factorized"
    # per_location: each hidden place's query attends over the context; pooled: one vector for all
    # places, plus the place's position embedding, as in Selfie.
    query: str = "per_location"
    label_smoothing: float = 0.01


@dataclasses.dataclass
class ClassifierConfig(NetworkConfig):
    """Finetuning (section 2.3): what follows P."""

    # resnet50: a fourth group and average pooling, the attention's values are not used;
    # resnet36_attention: Selfie's A; patchformer: PatchFormer's Transformer and pooling.
    head: str = "resnet50"
    label_smoothing: float = 0.0
    # resnet36_attention: P over each patch as in pretraining, not over the whole image.
    patch_by_patch: bool = False


@dataclasses.dataclass
class OptimizerConfig:
    """Section 3.2 of Selfie, 2.1 of PatchFormer."""

    name: str = "sgd"  # sgd | adamw | lamb (needs requirements/addons.txt)
    learning_rate: float = 0.1  # the peak, after warm-up
    warmup_steps: int = 100
    momentum: float = 0.9  # sgd: Nesterov
    beta_1: float = 0.9  # adamw, lamb
    beta_2: float = 0.999  # adamw, lamb
    epsilon: float = 1e-6  # adamw, lamb
    # On kernels only. sgd: L2 in the loss; adamw, lamb: decoupled, times the learning rate.
    weight_decay: float = 1e-4

    @property
    def decay_in_loss(self) -> float:
        """Factor of the L2 penalty in the loss."""
        return self.weight_decay if self.name == "sgd" else 0.0


@dataclasses.dataclass
class LoopConfig:
    """Length, batch, seed, precision, and how often things are written."""

    steps: int = 120_000
    batch_size: int = 512  # over all replicas
    seed: int = 0
    # float64 is for comparing runs: an untrained P amplifies float32's rounding within a few steps.
    precision: str = "float32"
    checkpoint_every: int = 1000  # steps
    keep_checkpoints: int = 3
    log_every: int = 50  # steps
    # Steps run on the device between two visits to Python; must divide every other *_every. 0 lets
    # the hardware decide: 1 on CPU and GPU, as many as fit on TPU.
    steps_per_execution: int = 0

    @property
    def intervals(self) -> dict:
        """{key: steps} of everything that happens every so many steps."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k.endswith("_every")}


@dataclasses.dataclass
class TrainConfig(LoopConfig):
    """Pretraining."""

    picture_every: int = 1000  # steps


@dataclasses.dataclass
class FinetuneLoopConfig(LoopConfig):
    """Finetuning."""

    eval_every: int = 5000  # steps; and at the end


class RunConfig:
    """What both kinds of runs have; see `Config` and `FinetuneConfig`."""

    has_attention = True  # whether there is an A, with weights

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.data.image_size // self.patches.size

    @property
    def num_patches(self) -> int:
        return self.grid**2

    @property
    def network_arguments(self) -> dict:
        """What the constructors of all models take."""
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

    def validate(self) -> None:
        """Raises UserError naming the first key whose value cannot work."""
        _check_types(self)
        d, p, m, o, t = self.data, self.patches, self.model, self.optimizer, self.train
        if not all(d.name.partition(":")[::2]):
            raise UserError(
                f"data.name={d.name!r}: expected tfds:NAME, folder:PATH or builtin:shapes"
            )
        _check_choices(
            ("data.crop", d.crop, CROPS),
            ("model.stem", m.stem, STEMS),
            ("model.position", m.position, POSITIONS),
            ("optimizer.name", o.name, OPTIMIZERS),
            ("train.precision", t.precision, PRECISIONS),
        )
        _check_ranges(
            ("data.image_size", d.image_size, 1, 4096),
            ("data.min_crop_area", d.min_crop_area, 1e-3, 1),
            ("data.shuffle_buffer", d.shuffle_buffer, 1, math.inf),
            ("data.held_out", d.held_out, 1, math.inf),
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
            ("optimizer.beta_1", o.beta_1, 0, 0.999999),
            ("optimizer.beta_2", o.beta_2, 0, 0.999999),
            ("optimizer.epsilon", o.epsilon, 1e-12, 1),
            ("optimizer.weight_decay", o.weight_decay, 0, 1e6),
            ("train.steps", t.steps, 1, math.inf),
            ("train.batch_size", t.batch_size, 1, math.inf),
            ("train.seed", t.seed, 0, 2**31 - 1),
            ("train.keep_checkpoints", t.keep_checkpoints, 1, math.inf),
            *((f"train.{key}", steps, 1, math.inf) for key, steps in t.intervals.items()),
            ("train.steps_per_execution", t.steps_per_execution, 0, math.inf),
        )
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
    """What both kinds of pretraining have; see `Config` and `PatchFormerConfig`."""

    def validate(self) -> None:
        super().validate()
        if self.method != type(self).method:
            raise UserError(
                f"method={self.method!r}: this config is of {type(self).method}; give a config "
                f"file of the other method with --config"
            )
        _check_ranges(("data.eval_images", self.data.eval_images, 1, math.inf))


@dataclasses.dataclass
class SelfieConfig(PretrainConfig):
    """One pretraining run of Selfie, whole."""

    method: str = "selfie"  # tells the kinds of config.json apart
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    patches: PatchesConfig = dataclasses.field(default_factory=PatchesConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    @property
    def num_context(self) -> int:
        """C: patches that the encoder sees, round(p * n) (12 of 16, 37 of 49)."""
        return round(self.patches.context_fraction * self.num_patches)

    @property
    def num_targets(self) -> int:
        """T: patches hidden, and predicted all at once."""
        return self.num_patches - self.num_context

    def validate(self) -> None:
        super().validate()
        _check_choices(
            ("model.pooling", self.model.pooling, POOLINGS),
            ("model.logit_scale", self.model.logit_scale, LOGIT_SCALES),
        )
        if self.num_context < 1 or self.num_targets < 2:
            raise UserError(
                f"patches.context_fraction={self.patches.context_fraction} leaves "
                f"{self.num_context} context and {self.num_targets} target patches of "
                f"{self.num_patches}: at least 1 and 2 are needed"
            )


@dataclasses.dataclass
class PatchFormerConfig(PretrainConfig):
    """One pretraining run of PatchFormer, whole; the defaults are the paper's."""

    method: str = "patchformer"  # tells the kinds of config.json apart
    data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(
            name="tfds:imagenet2012", image_size=224, crop="random_resized", shuffle_buffer=16_384
        )
    )
    patches: MasksConfig = dataclasses.field(default_factory=lambda: MasksConfig(size=16))
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    model: PatchFormerModelConfig = dataclasses.field(default_factory=PatchFormerModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(
            name="adamw", learning_rate=2e-4, warmup_steps=10_000, weight_decay=1e-3
        )
    )
    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(steps=300_000, batch_size=128, picture_every=10_000)
    )

    @property
    def num_hidden_cells(self) -> int:
        """Cells of the coarse grid that are hidden (29 of 49)."""
        return round(self.patches.mask_ratio * (self.grid // self.patches.mask_block) ** 2)

    @property
    def num_targets(self) -> int:
        """T: patches hidden (116 of 196; the paper's 118 are no whole cells)."""
        return self.num_hidden_cells * self.patches.mask_block**2

    @property
    def num_context(self) -> int:
        """C: patches that are seen."""
        return self.num_patches - self.num_targets

    def validate(self) -> None:
        super().validate()
        p, a, m = self.patches, self.augment, self.model
        _check_choices(("patches.target", p.target, TARGETS), ("model.query", m.query, QUERIES))
        _check_ranges(
            ("patches.size", p.size, 2, self.data.image_size // 2),
            ("patches.mask_ratio", p.mask_ratio, 0, 1),
            ("patches.mask_block", p.mask_block, 1, self.grid),
            ("patches.target_size", p.target_size, 2, p.size),
            ("patches.target_bits", p.target_bits, 1, 8),
            ("augment.jitter", a.jitter, 0, p.size - 1),
            ("augment.brightness", a.brightness, 0, 1),
            ("augment.contrast", a.contrast, 0, 1),
            ("augment.saturation", a.saturation, 0, 1),
            ("augment.hue", a.hue, 0, 0.5),
            ("augment.flip_rate", a.flip_rate, 0, 1),
            ("augment.min_bits", a.min_bits, 1, 8),
            ("augment.grayscale_rate", a.grayscale_rate, 0, 1),
            ("model.label_smoothing", m.label_smoothing, 0, 0.999),
        )
        if self.grid % p.mask_block:
            raise UserError(
                f"patches.mask_block={p.mask_block} does not divide the grid of "
                f"{self.grid}x{self.grid} patches; 1 hides single patches"
            )
        if p.target_size & (p.target_size - 1):
            raise UserError(f"patches.target_size={p.target_size}: expected a power of two")
        if p.target == "subsample" and p.size % p.target_size:
            raise UserError(
                f"patches.target_size={p.target_size} does not divide patches.size={p.size}: "
                "patches.target=subsample needs that"
            )
        if self.num_context < 1 or self.num_targets < 1:
            raise UserError(
                f"patches.mask_ratio={p.mask_ratio} leaves {self.num_context} visible and "
                f"{self.num_targets} hidden patches of {self.num_patches}: at least one block of "
                f"{p.mask_block}x{p.mask_block} of each is needed"
            )


@dataclasses.dataclass
class FinetuneConfig(RunConfig):
    """One finetuning run, whole."""

    # Work directory of a pretraining run, or an export of one; "" for the supervised baseline.
    init_from: str = ""
    data: LabelledDataConfig = dataclasses.field(default_factory=LabelledDataConfig)
    patches: ClassifierGridConfig = dataclasses.field(default_factory=ClassifierGridConfig)
    model: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: FinetuneLoopConfig = dataclasses.field(default_factory=FinetuneLoopConfig)

    @property
    def has_attention(self) -> bool:
        return self.model.head != "resnet50"

    def validate(self) -> None:
        super().validate()
        d, m = self.data, self.model
        _check_choices(("model.head", m.head, HEADS))
        _check_ranges(
            ("data.label_fraction", d.label_fraction, 0, 1),
            ("data.labels_per_class", d.labels_per_class, 0, math.inf),
            ("data.subset_seed", d.subset_seed, 0, 2**31 - 1),
            ("data.validation_fraction", d.validation_fraction, 0, 0.9),
            ("data.test_crop", d.test_crop, 1e-3, 1),
            ("patches.mask_ratio", self.patches.mask_ratio, 0, 0.9),
            ("model.label_smoothing", m.label_smoothing, 0, 0.999),
        )
        ratio = self.patches.mask_ratio
        if ratio and m.head != "patchformer":
            raise UserError(
                f"patches.mask_ratio={ratio} needs model.head=patchformer; give "
                f"--config.patches.mask_ratio=0 with {m.head}"
            )
        if ratio and not 1 <= round(ratio * self.num_patches) < self.num_patches:
            raise UserError(
                f"patches.mask_ratio={ratio} leaves out {round(ratio * self.num_patches)} of "
                f"{self.num_patches} patches: expected some, but not all; 0 leaves out none"
            )
        if m.patch_by_patch and m.head == "patchformer":
            raise UserError(
                "model.patch_by_patch=True is for model.head=resnet36_attention; patchformer sees "
                "patches anyway"
            )
        given = {
            "label_fraction": d.label_fraction != 1,
            "labels_per_class": d.labels_per_class,
            "subset_file": d.subset_file,
        }
        if sum(map(bool, given.values())) > 1:
            names = " and ".join(f"data.{name}" for name, value in given.items() if value)
            raise UserError(f"{names} exclude each other: give one of them")
        if m.head == "resnet36_attention" and not m.patch_by_patch:
            side = feature_map_side(d.image_size, m.stem)
            if side % self.grid:
                raise UserError(
                    f"patches.size={self.patches.size}: the {side}x{side} feature map of an image "
                    f"cannot be averaged onto a {self.grid}x{self.grid} grid; give the "
                    "pretraining's size, or --config.model.patch_by_patch=True"
                )


def feature_map_side(image_size: int, stem: str) -> int:
    """Side of P's feature map (three groups, strides 1, 2, 2) of an image."""
    for _ in range(4 if stem == "imagenet" else 2):
        image_size = -(-image_size // 2)
    return image_size


def _check_choices(*entries) -> None:
    for key, value, choices in entries:
        if value not in choices:
            raise UserError(f"{key}={value!r}: expected one of {', '.join(choices)}")


def _check_ranges(*entries) -> None:
    for key, value, low, high in entries:
        if not low <= value <= high:  # False for NaN too
            bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise UserError(f"{key}={value}: expected a number {bounds}")


def _check_types(config) -> None:
    for path, value, expected in _leaves(config):
        if expected is float and type(value) is int:
            section, _, name = path.rpartition(".")
            setattr(getattr(config, section), name, float(value))
        elif type(value) is not expected:
            raise UserError(
                f"{path}={value!r}: expected {expected.__name__}, got {type(value).__name__}"
            )


def _leaves(config):
    """(dotted key, value, type) of every value."""
    for name, expected in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not dataclasses.is_dataclass(expected):
            yield name, value, expected
            continue
        for key, kind in typing.get_type_hints(expected).items():
            yield f"{name}.{key}", getattr(value, key), kind


def to_dict(config: RunConfig) -> dict:
    """The resolved config as nested plain values, as written to config.json."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: dict) -> RunConfig:
    """The inverse of `to_dict`.

    Args:
      kind: The config's class.
      values: Nested plain values; those that are missing keep their defaults.

    Raises:
      UserError: On a section or key that does not exist, or a value that cannot work.
    """
    config = kind()
    for section, entries in values.items():
        holder = getattr(config, section, None)
        if isinstance(holder, str):
            setattr(config, section, entries)
            continue
        if not dataclasses.is_dataclass(holder) or not isinstance(entries, dict):
            raise UserError(f"unknown config section {section!r}")
        for key, value in entries.items():
            if key not in {field.name for field in dataclasses.fields(holder)}:
                raise UserError(f"unknown config key {section}.{key}")
            setattr(holder, key, value)
    config.validate()
    return config


def kind_of_run(values: dict) -> str:
    """The kind of run that a config.json is of: "finetuning", "selfie pretraining", ..."""
    if "init_from" in values and "method" not in values:
        return "finetuning"
    return f"{values.get('method', 'selfie')} pretraining"  # the first configs named no method


def flatten(config: RunConfig) -> dict:
    """{'section.key': value}, for naming what differs between two configs."""
    return {path: value for path, value, _ in _leaves(config)}
