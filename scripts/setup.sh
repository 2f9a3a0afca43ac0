# Sourced by demo.sh and test.sh: a virtual environment in .venv with the package in it.
# Usage: source scripts/setup.sh [extras], such as `source scripts/setup.sh dev`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=""
for candidate in python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "unet-pipeline needs Python 3.11 or newer; none was found" >&2
    exit 1
fi

package="."
[ -n "${1:-}" ] && package=".[$1]"
[ -x .venv/bin/python ] || "$python" -m venv .venv
# uv installs in half a minute what takes pip three; it comes from PyPI like the rest. Compiled, as
# pip does it by itself, the libraries load in half the time, in every process
.venv/bin/python -m pip install --quiet uv
.venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode \
    --constraint scripts/constraints.txt --editable "$package"
export PATH="$PWD/.venv/bin:$PATH"
