#!/usr/bin/env bash
# On a fresh machine: installs with the development tools, then checks and tests.
source "$(dirname "$0")/setup.sh" dev
bash scripts/check.sh
# Two processes, a file of tests to each: torch computes with one thread in them
python -m pytest --numprocesses 2 --dist loadfile "$@"
