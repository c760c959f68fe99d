"""What the config says of crops and order holds in the batches."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.config import FinetuneConfig, LabelledDataConfig
from selfie_tf.data.pipeline import evaluation_batches, labelled_batches
from selfie_tf.data.source import BatchShard, IndexedSource
from selfie_tf.data.tfds import TFDSSource

from helpers import held_out_batches, training_batches


def white_source(side=16, count=8):
    """White images with labels."""
    images = tf.constant(np.full([count, side, side, 3], 255, np.uint8))
    return IndexedSource(images, images, [np.arange(count)] * 2)


@pytest.mark.parametrize("crop, shifted", [("pad", True), ("center", False)])
def test_finetuning_crops_its_training_images(crop, shifted):
    """A black margin shows where a white image was padded and shifted."""
    config = FinetuneConfig()
    config.data.image_size, config.data.crop, config.patches.pad = 16, crop, 4
    config.train.batch_size = 64
    ((images, _),) = labelled_batches(white_source(), config).take(1)
    black = np.all(images.numpy() == 0, axis=-1)  # [B, S, S]
    assert set(np.unique(images)) <= {0, 255}
    margins = {tuple(map(int, (b.all(1).sum(), b.all(0).sum()))) for b in black}
    assert (len(margins) > 8) == shifted and ((0, 0) in margins or shifted)
    assert max(map(max, margins)) == (4 if shifted else 0)


def test_nobody_waits_for_a_tuner_after_the_last_batch(tiny_config):
    """A reader that stops waits for up to a minute for the thread that tunes a dataset."""
    source, labelled = white_source(), FinetuneConfig()
    for batches in (
        training_batches(source, tiny_config),
        held_out_batches(source, tiny_config, 4, 4),
        labelled_batches(source, labelled),
        evaluation_batches(source, labelled, BatchShard(batch_size=4)),
    ):
        assert batches.options().autotune.enabled is False


def areas(config, side, batches=1):
    """Fractions of the area that training crops keep, of images whose pixels are coordinates."""
    y, x = np.mgrid[:200, :200].astype(np.uint8)
    image = np.stack([x, y, np.zeros_like(x)], axis=-1)
    source = IndexedSource(tf.constant(np.stack([image] * 4)), tf.constant(image[None]))
    found = []
    for batch in training_batches(source, config).take(batches):
        patches = np.concatenate([batch["context_patches"], batch["target_patches"]], axis=1)
        corners = patches.astype(float).reshape(len(patches), -1, 3)  # [B, S * S, 3]
        extent = np.ptp(corners[..., :2], axis=1) * side / (side - 1)  # [B, 2], in pixels
        found.append(extent.prod(-1) / 200**2)
    return np.concatenate(found)


@pytest.mark.parametrize("smallest", [0.05, 0.6])
def test_random_crops_keep_the_area_that_the_config_says(smallest, tiny_config):
    config = tiny_config
    config.data.image_size, config.patches.size = 32, 8
    config.data.crop, config.data.min_crop_area = "random_resized", smallest
    config.train.batch_size = 128
    found = areas(config, 32)
    # Resampling blurs the corners, so an area is known to a few per cent.
    assert found.min() > 0.9 * smallest
    assert found.min() < smallest + 0.15 and found.max() > 0.85


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """A prepared dataset of 40 images, each of one grey of its own."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
    )
    greys = np.arange(40)
    images = np.tile(greys[:, None, None, None], [1, 8, 8, 3]).astype(np.uint8)
    train = tf.data.Dataset.from_tensor_slices({"image": images, "label": greys % 2})
    splits = {"train": train.take(40), "test": train.take(4)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="greys", version="1.0.0", features=features, split_datasets=splits, data_dir=folder
    )
    return str(folder)


@pytest.mark.parametrize("buffer", [5, 1000])
def test_tfds_images_come_in_another_order_in_each_epoch(buffer, tfds_folder):
    source = TFDSSource("greys", tfds_folder, LabelledDataConfig().held_out, buffer)
    images = source.train_images(3, 0, BatchShard(10)).take(120)
    greys = [int(image[0, 0, 0]) for _, image, _ in images]
    epochs = [greys[:40], greys[40:80], greys[80:]]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(40))


def test_held_out_ids_name_other_images_than_train_ids(tfds_folder):
    source = TFDSSource("greys", tfds_folder, 10, 10)
    train, held_out = source.train_ids(), source.held_out_ids()
    assert (len(set(train)), len(set(held_out))) == (40, 4)
    assert not set(train) & set(held_out)
    white = white_source()
    assert not set(white.train_ids()) & set(white.held_out_ids())


def test_each_image_comes_once_in_the_order_of_the_ids(tfds_folder):
    """Also where records are read from several files."""
    whole = TFDSSource("greys", tfds_folder, 10, 10)
    greys = [int(image[0, 0, 0]) for _, image, _ in whole.each_image(False)]
    grey_of = dict(zip(whole.train_ids(), greys))
    assert sorted(grey_of.values()) == list(range(40))
    (file,) = whole._train
    parts = copy.copy(whole)
    parts._train = [file.replace(skip=s, take=t) for s, t in ((20, 17), (2, 18))]
    ids, found = parts.train_ids(), list(parts.each_image(False))
    assert [int(i) for i, _, _ in found] == list(range(35)) and len(ids) == 35
    assert [int(x[0, 0, 0]) for _, x, _ in found] == [grey_of[name] for name in ids]
    assert all(int(label) == int(x[0, 0, 0]) % 2 for _, x, label in found)
    assert len(list(whole.each_image(True))) == 4


def test_some_images_come_with_the_labels_that_are_told(tfds_folder):
    for source in (TFDSSource("greys", tfds_folder, 10, 10), white_source()):
        for held_out, labels in (
            (False, source.train_labels()),
            (True, source.held_out_labels()),
        ):
            whole = list(source.each_image(held_out))
            assert labels.tolist() == [int(label) for *_, label in whole]
            some = list(source.each_image(held_out, np.array([1, 3])))
            assert [int(index) for index, *_ in some] == [1, 3]
            for (_, image, label), i in zip(some, (1, 3), strict=True):
                np.testing.assert_array_equal(image, whole[i][1])
                assert label == whole[i][2]
