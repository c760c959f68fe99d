"""Every number that affects a result. Importing this does not import TensorFlow."""

from selfie_tf.config.augment import AugmentConfig
from selfie_tf.config.base import (
    NETWORK_KEYS,
    DataConfig,
    GridConfig,
    ImagesConfig,
    LoopConfig,
    NetworkConfig,
    OptimizerConfig,
    PretrainConfig,
    PretrainLoopConfig,
    RunConfig,
)
from selfie_tf.config.finetune import (
    ClassifierConfig,
    ClassifierGridConfig,
    FinetuneConfig,
    FinetuneLoopConfig,
    FinetuneOptimizerConfig,
    LabelledDataConfig,
)
from selfie_tf.config.patchformer import MasksConfig, PatchFormerConfig, PatchFormerModelConfig
from selfie_tf.config.selfie import (
    PatchesConfig,
    SelfieConfig,
    SelfieModelConfig,
    ViewsConfig,
)
from selfie_tf.config.serialize import (
    Key,
    assign,
    flatten,
    from_dict,
    keys,
    kind_of_run,
    suggest,
    to_dict,
)

__all__ = [
    "NETWORK_KEYS",
    "AugmentConfig",
    "ClassifierConfig",
    "ClassifierGridConfig",
    "DataConfig",
    "FinetuneConfig",
    "FinetuneLoopConfig",
    "FinetuneOptimizerConfig",
    "GridConfig",
    "ImagesConfig",
    "Key",
    "LabelledDataConfig",
    "LoopConfig",
    "MasksConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "PatchFormerConfig",
    "PatchFormerModelConfig",
    "PatchesConfig",
    "PretrainConfig",
    "PretrainLoopConfig",
    "RunConfig",
    "SelfieConfig",
    "SelfieModelConfig",
    "ViewsConfig",
    "assign",
    "flatten",
    "from_dict",
    "keys",
    "kind_of_run",
    "suggest",
    "to_dict",
]
