"""Trains a classifier on a pretrained network with plain Keras: your own tf.data, fit and export.

    python examples/finetune_with_keras.py PRETRAINED IMAGES OUTPUT

PRETRAINED is the work directory of a pretraining run, or an export of it. IMAGES holds one folder
of images per class. OUTPUT is where the SavedModel goes.
"""

import contextlib
import io
import os
import sys

# In a checkout; not needed where selfie_tf is installed.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import tf_keras as keras  # noqa: E402  (Keras 2)

import selfie_tf  # noqa: E402

pretrained, images, output = sys.argv[1:]
size, epochs = 32, 5

train, test = keras.utils.image_dataset_from_directory(
    images, image_size=(size, size), batch_size=16, seed=1, validation_split=0.2, subset="both"
)
flip = keras.layers.RandomFlip("horizontal")
augmented = train.map(lambda x, y: (flip(x, training=True), y)).prefetch(2)

patch_network = selfie_tf.load_pretrained(pretrained).patch_network  # a Keras layer
inputs = keras.Input([size, size, 3])
x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)  # to [-1, 1], as in pretraining
x = patch_network(x)  # [B, size/4, size/4, D]
x = keras.layers.GlobalAveragePooling2D()(x)
outputs = keras.layers.Dense(len(train.class_names))(x)

model = keras.Model(inputs, outputs)
model.compile(
    keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(augmented, validation_data=test, epochs=epochs, verbose=2)
with contextlib.redirect_stdout(io.StringIO()):  # Keras prints every variable
    model.export(output)
print("exported to", output)
