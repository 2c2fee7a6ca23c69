"""The public names are what design promises, load lazily, and carry docstrings."""

import importlib.metadata
import inspect
import subprocess
import sys

import spicerack

NAMES = {
    "GradientStore",
    "Run",
    "RunConfig",
    "Selection",
    "SpicerackError",
    "TokenBudget",
    "collect_features",
    "collect_gradients",
    "methods",
    "run",
    "select",
}


def test_all_is_exact():
    assert set(spicerack.__all__) == NAMES | {"__version__"}
    assert set(dir(spicerack)) >= NAMES


def test_every_public_name_is_documented():
    for name in NAMES:
        assert inspect.getdoc(getattr(spicerack, name)), name


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, spicerack; print({'torch', 'numpy', 'pyarrow', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_selecting_from_an_array_needs_no_torch():
    code = (
        "import sys, numpy, spicerack; G = numpy.random.default_rng(0).standard_normal((20, 4));"
        "spicerack.select(G, 'spice', 3); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_version_is_the_installed_one():
    assert spicerack.__version__ == importlib.metadata.version("spicerack")
