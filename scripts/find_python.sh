#!/bin/sh
# Print the first Python of this machine that runs, is one of the versions asked for and can make
# virtual environments; else say in one line what is missing and exit 2.
# usage: find_python.sh 3.11 3.12
#
# A name on PATH is not enough: a version manager's shim is there and refuses to start, so each
# candidate is asked for its version. Folders of pyenv are looked at last, for the same reason.
# Where PYTHON is set, that one is the only candidate.

candidates() {
    if [ -n "$PYTHON" ]; then echo "$PYTHON"; return; fi
    for version in "$@"; do echo "python$version"; done
    echo python3
    echo python
    for version in "$@"; do
        for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do echo "$path"; done
    done
}

without_venv=
for python in $(candidates "$@"); do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    for wanted in "$@"; do
        [ "$version" = "$wanted" ] || continue
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            "$python" -c 'import sys; print(sys.executable)'
            exit 0
        fi
        without_venv="${without_venv:-$python}"
    done
done
wanted=$(echo "$*" | sed 's/ / or /g')
if [ -n "$without_venv" ]; then
    echo "imitact: $without_venv has no venv module; on Debian: apt-get install python3-venv" >&2
elif [ -n "$PYTHON" ]; then
    echo "imitact: needs Python $wanted; PYTHON=$PYTHON is ${version:-not a Python that runs}" >&2
else
    echo "imitact: needs Python $wanted and found none; install one, or name it: make PYTHON=/path/to/python" >&2
fi
exit 2
