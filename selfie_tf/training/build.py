"""Models from configs, ready to train."""

import math

import tf_keras as keras

from selfie_tf import optimizers
from selfie_tf.config import FinetuneConfig, PretrainConfig
from selfie_tf.methods import METHODS
from selfie_tf.models.classifier import ImageClassifier, ResNetClassifier
from selfie_tf.models.patchformer import PatchFormerClassifier


def build_pretrainer(config: PretrainConfig) -> keras.Model:
    """Makes the model of `config.method` with all its weights; call it in the strategy's scope."""
    return METHODS[config.method].build(config)


def build_classifier(config: FinetuneConfig, num_classes: int) -> ImageClassifier:
    """Makes the classifier with all its weights; call it in the strategy's scope."""
    model = config.model
    arguments = {
        "image_size": config.data.image_size,
        "label_smoothing": model.label_smoothing,
        "backbone_factor": config.optimizer.backbone_factor,
        "frozen_steps": config.train.frozen_steps,
        **config.network_arguments,
    }
    if model.head == "patchformer":
        mask_ratio = config.patches.mask_ratio
        classifier = PatchFormerClassifier(num_classes, mask_ratio=mask_ratio, **arguments)
    else:
        classifier = ResNetClassifier(
            num_classes, head=model.head, patch_by_patch=model.patch_by_patch, **arguments
        )
    classifier.build()
    return classifier


def compile_model(config, model: keras.Model, steps_per_execution: int = 1) -> None:
    """Gives the model its optimizer, with all of the optimizer's variables."""
    optimizer = config.optimizer
    schedule = optimizers.warmup_cosine(
        optimizer.learning_rate, config.train.steps, optimizer.warmup_steps
    )
    model.compile(
        optimizers.make_optimizer(
            optimizer.name,
            schedule,
            optimizer.momentum,
            optimizer.weight_decay,
            optimizer.beta_1,
            optimizer.beta_2,
            optimizer.epsilon,
        ),
        steps_per_execution=steps_per_execution,
    )
    optimizers.build(model.optimizer, model.trainable_variables)


def num_weights(model: keras.Model) -> int:
    """The number of trainable weights."""
    return sum(math.prod(v.shape) for v in model.trainable_variables)
