"""What pyproject.toml cannot say: the mains and configs go into the wheel inside of `ftjax`.

In a checkout they are folders of their own; in site-packages, top-level packages with such names
would belong to everybody.
"""

from setuptools import find_packages, setup

BUNDLED = {"ftjax.bundled.configs": "configs", "ftjax.bundled.experiments": "experiments"}

setup(
    packages=[*find_packages(include=["ftjax", "ftjax.*"]), *BUNDLED],
    package_dir=BUNDLED,
    package_data={
        "ftjax": ["assets/**", "report/templates/**", "serve/*.html"],
        "ftjax.bundled.configs": ["*.jsonl", "*/*.jsonl"],
    },
)
