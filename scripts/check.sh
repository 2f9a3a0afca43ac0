#!/usr/bin/env bash
# Style, types, layers. Run it after scripts/setup.sh, or in any environment with the dev extra.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d .venv/bin ] && export PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
mypy
lint-imports
