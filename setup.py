"""Packaging of onnx-ghn. The passes live in passes/ and install as onnx_ghn.passes."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

RUNTIME_CPU = ["onnxruntime>=1.20"]
RUNTIME_GPU = ["onnxruntime-gpu[cuda,cudnn]>=1.21"]
DOCS = ["mkdocs-material>=9.5,<10", "mkdocstrings-python>=1.10", "mkdocs-click>=0.8"]
NEIGHBOURS = ["onnxscript>=0.5", "onnxslim>=0.1.60", "onnxsim>=0.4.36"]
HUB = ["huggingface_hub>=0.25"]
TRAIN = ["pillow>=10", "scikit-learn>=1.4", "tensorboard>=2.16"]

setup(
    name="onnx-ghn",
    version="0.1.0",
    description="Initialise the weights of any ONNX model with a graph hypernetwork",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["onnx_ghn", "onnx_ghn.*"], exclude=["onnx_ghn.passes"]),
        "onnx_ghn.passes",
    ],
    package_dir={"onnx_ghn": "onnx_ghn", "onnx_ghn.passes": "passes"},
    package_data={
        "onnx_ghn": ["py.typed"],
        "onnx_ghn.architectures": ["splits.json"],
        "onnx_ghn.hypernet": ["weights/*"],
    },
    install_requires=[
        "onnx>=1.21",
        "onnx-ir>=1.0",
        "numpy>=1.26",
        "ml_dtypes>=0.5",
        "protobuf>=4.25",
        "click>=8.1",
        "rich>=13",
        "safetensors>=0.5",
        "torch>=2.9",
    ],
    extras_require={
        "cpu": RUNTIME_CPU,
        "gpu": RUNTIME_GPU,
        "train": TRAIN,
        "ray": ["ray>=2.9"],
        "hub": HUB,
        "olive": ["olive-ai>=0.13", "requests"],  # which Olive 0.13 imports but doesn't ask for
        "docs": DOCS,
        "dev": [
            *RUNTIME_CPU,
            *TRAIN,
            *DOCS,
            *NEIGHBOURS,
            *HUB,
            "hypothesis>=6.100",
            "mypy>=1.15",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
        ],
    },
    entry_points={"console_scripts": ["onnx-ghn = onnx_ghn.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
