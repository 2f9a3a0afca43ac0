#!/usr/bin/env bash
# On a fresh machine: installs with the development tools, then checks and tests.
source "$(dirname "$0")/setup.sh" dev
bash scripts/check.sh
python -m pytest "$@"
