"""Writes photographs of solar cells as a folder of classes, for pretraining and finetuning.

    pip install elpv-dataset
    python examples/solar_cells.py data/solar_cells
    selfie-tf pretrain --config=selfie_cifar10 --config.data.name=folder:data/solar_cells ...

ELPV (Deitsch et al. 2019) has 2,624 electroluminescence images of cells out of 44 modules, each
with the probability that the cell is defective; above one half it counts as defective here. The
licence is CC BY-NC-SA 4.0: not for commercial use.

Cells of one module look alike, so no module may have some in training and others in test. The data
do not say which cells belong together. But the type (monocrystalline or polycrystalline) changes
only nine times along the list, so the cells are evidently in the order of the modules, and common
modules have 60 or 72 cells. So of each stretch of one type the last quarter is the test split, and
the 72 cells before it are left out. A stretch that is too short for that is for training. That
makes 1,510 cells for training (432 defective) and 610 for testing (166), and leaves out 504 (223).
"""

import argparse
import itertools
import os

from PIL import Image

MODULE = 72  # cells at most


def split_of(types: list) -> list:
    """Divides cells without parting a module.

    Args:
      types: The type of each cell, in the order of the modules.

    Returns:
      "train", "test" or "" (left out) for each cell.
    """
    splits = []
    for _, stretch in itertools.groupby(types):
        count = len(list(stretch))
        test = count // 4
        train = count - test - MODULE
        if train < test:
            train, test = count, 0
        splits += ["train"] * train + [""] * (count - train - test) + ["test"] * test
    return splits


def main() -> None:
    """Reads the package's images and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", help="the folder to write")
    output = parser.parse_args().output
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError:
        parser.error("the images come with a package: pip install elpv-dataset")
    if os.path.exists(output):
        parser.error(f"{output} exists; give a new folder")
    images, probabilities, types = load_dataset()
    counts = {}
    for i, split in enumerate(split_of(list(types))):
        if split:
            folder = os.path.join(split, "defective" if probabilities[i] > 0.5 else "functional")
            os.makedirs(os.path.join(output, folder), exist_ok=True)
            Image.fromarray(images[i]).save(os.path.join(output, folder, f"{i:04}.png"))
            counts[folder] = counts.get(folder, 0) + 1
    for folder, count in sorted(counts.items()):
        print(f"{os.path.join(output, folder)}: {count} images")


if __name__ == "__main__":
    main()
