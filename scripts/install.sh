#!/bin/sh
# Install imitact, editable, with a set of packages of requirements/, each checked by its hash.
# usage: install.sh PYTHON SET      SET is demo or all
#
# An installed torch of the pinned version is kept, whatever its build. Otherwise a CPU build in a
# folder that pip looks in (PIP_FIND_LINKS) is taken, or else the build of the package index.
set -e
python=$1
wanted=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements/torch.txt)
hashed() { "$python" -m pip install --require-hashes --no-deps --only-binary :all: "$@"; }

have=$("$python" -c 'import importlib.metadata as m; print(m.version("torch").split("+")[0])' \
    2>/dev/null || true)
if [ "$have" != "$wanted" ]; then
    hashed --no-index -r requirements/torch-cpu.txt 2>/dev/null || hashed -r requirements/torch.txt
fi
hashed -r "requirements/$2.txt"
"$python" -m pip install --no-deps --no-build-isolation -e .
"$python" -m pip check
