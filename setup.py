"""What pyproject.toml cannot say: the folder configs/ is installed as selfie_tf/configs."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["selfie_tf", "selfie_tf.*"]),
        "selfie_tf.configs",
        "selfie_tf.configs.experiments",
    ],
    package_dir={
        "selfie_tf.configs": "configs",
        "selfie_tf.configs.experiments": "configs/experiments",
    },
)
