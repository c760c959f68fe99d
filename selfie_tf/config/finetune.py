"""The config of a finetuning run (section 2.3 of Selfie, 2.2 of PatchFormer)."""

import dataclasses

from selfie_tf.config.base import (
    GridConfig,
    ImagesConfig,
    LoopConfig,
    NetworkConfig,
    OptimizerConfig,
    RunConfig,
    feature_map_side,
)
from selfie_tf.config.fields import bounded, choice, switch, text
from selfie_tf.errors import UserError

MIN_PATCHFORMER_BATCH = 8  # images whose pooled vectors are normalised together


@dataclasses.dataclass
class LabelledDataConfig(ImagesConfig):
    """Images with labels, and which of the labels may be used (section 3.1).

    Only one of label_fraction, labels_per_class and subset_file may be given. They choose among the
    images of `labels`, if there is such a list.
    """

    labels: str = text(
        "",
        "folder: CSV file of path,label, which labels images wherever they lie in the folder; "
        "empty: one folder per class.",
    )
    test_labels: str = text(
        "",
        "With labels: CSV file of the images to test on; empty: those of labels that the folder "
        "holds out.",
    )
    label_fraction: float = bounded(
        1.0, 0, 1, "Fraction of each class's images whose labels are used, rounded to whole images."
    )
    labels_per_class: int = bounded(
        0, 0, help="Instead of label_fraction: images per class; 0: not used."
    )
    subset_file: str = text("", "Instead of label_fraction: the subset.json of another run.")
    subset_seed: int = bounded(0, 0, 2**31 - 1, "Seed that draws the labelled images.")
    validation_fraction: float = bounded(
        0.0,
        0,
        0.9,
        "Fraction of the labelled images that is not trained on but evaluated instead of the test "
        "split: 0.1 for tuning (section 3.2), 0 for the final run.",
    )
    flip: bool = switch(True, "Whether half of the training images are mirrored left to right.")
    test_crop: float = bounded(
        1.0, 1e-3, 1, "Fraction of the shorter side that evaluation keeps, in the middle."
    )


@dataclasses.dataclass
class ClassifierGridConfig(GridConfig):
    """The grid of pretraining."""

    mask_ratio: float = bounded(
        0.0, 0, 0.9, "head=patchformer: fraction of the patches that training leaves out."
    )


@dataclasses.dataclass
class ClassifierConfig(NetworkConfig):
    """What follows P."""

    head: str = choice(
        "resnet50",
        ("resnet50", "resnet36_attention", "patchformer"),
        "resnet50: a fourth group and average pooling; resnet36_attention: Selfie's A; "
        "patchformer: PatchFormer's Transformer and pooling.",
    )
    label_smoothing: float = bounded(
        0.0, 0, 0.999, "Fraction of each label that is spread over all classes in training."
    )
    patch_by_patch: bool = switch(
        False, "resnet36_attention: P sees each patch alone, as in pretraining."
    )


@dataclasses.dataclass
class FinetuneOptimizerConfig(OptimizerConfig):
    """The optimizer of finetuning."""

    backbone_factor: float = bounded(
        1.0,
        0,
        100,
        "Factor of the learning rate for the layers that pretraining provides, whatever their "
        "weights here: P's stem and groups 1 to 3; with attention also positions and attention.",
    )


@dataclasses.dataclass
class FinetuneLoopConfig(LoopConfig):
    """The loop of finetuning."""

    eval_every: int = bounded(
        5000, 1, help="Steps between two evaluations; the last one is at the end."
    )
    frozen_steps: int = bounded(
        0,
        0,
        help="First steps in which the layers that pretraining provides are not trained; their "
        "batch normalisation adapts its statistics. Fewer than train.steps.",
    )


@dataclasses.dataclass
class FinetuneConfig(RunConfig):
    """One finetuning run; the defaults are Selfie's on CIFAR-10."""

    init_from: str = text(
        "",
        "Pretraining run, or export of one, whose network and weights are used; empty: the "
        "supervised baseline.",
    )
    from_scratch: bool = switch(
        False, "Take the network of init_from, but random weights: its supervised baseline."
    )
    data: LabelledDataConfig = dataclasses.field(default_factory=LabelledDataConfig)
    patches: ClassifierGridConfig = dataclasses.field(default_factory=ClassifierGridConfig)
    model: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    optimizer: FinetuneOptimizerConfig = dataclasses.field(default_factory=FinetuneOptimizerConfig)
    train: FinetuneLoopConfig = dataclasses.field(default_factory=FinetuneLoopConfig)

    @property
    def has_attention(self) -> bool:
        """Whether the head has attention, with weights."""
        return self.model.head != "resnet50"

    def validate(self) -> None:
        """See `RunConfig.validate`."""
        super().validate()
        d, m, ratio = self.data, self.model, self.patches.mask_ratio
        if self.from_scratch and not self.init_from:
            raise UserError(
                "from_scratch=True takes the network of init_from, which is empty; leave "
                "from_scratch out, or name a pretraining run"
            )
        if self.train.frozen_steps >= self.train.steps:
            raise UserError(
                f"train.frozen_steps={self.train.frozen_steps} must be smaller than "
                f"train.steps={self.train.steps}"
            )
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
        if m.head == "patchformer" and self.train.batch_size < MIN_PATCHFORMER_BATCH:
            raise UserError(
                f"train.batch_size={self.train.batch_size}: expected at least "
                f"{MIN_PATCHFORMER_BATCH} with model.head=patchformer, which normalises one vector "
                "per image over the batch; give a larger batch, or --config.model.head=resnet50"
            )
        given = {
            "label_fraction": d.label_fraction != 1,
            "labels_per_class": d.labels_per_class,
            "subset_file": d.subset_file,
        }
        if sum(map(bool, given.values())) > 1:
            names = " and ".join(f"data.{name}" for name, value in given.items() if value)
            raise UserError(f"{names} exclude each other: give one of them")
        if d.labels and not d.name.startswith("folder:"):
            raise UserError(
                f"data.labels={d.labels} labels the images of a folder, but data.name={d.name}; "
                "give --config.data.name=folder:PATH"
            )
        if d.test_labels and not d.labels:
            raise UserError(
                f"data.test_labels={d.test_labels} needs data.labels, the list of the images to "
                "train on"
            )
        if m.head == "resnet36_attention" and not m.patch_by_patch:
            side = feature_map_side(d.image_size, m.stem)
            if side % self.grid:
                raise UserError(
                    f"patches.size={self.patches.size}: the {side}x{side} feature map of an image "
                    f"cannot be averaged onto a {self.grid}x{self.grid} grid; give the "
                    "pretraining's size, or --config.model.patch_by_patch=True"
                )
