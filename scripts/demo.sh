#!/usr/bin/env bash
# From a fresh machine to masks: installs, prepares the embedded data, trains, evaluates, predicts.
source "$(dirname "$0")/setup.sh"

data=data/digits
if [ ! -f "$data/dataset.yaml" ]; then
    unet prepare --output "$data"
fi
run=$(unet train --config configs/digits.yaml --data "$data")
unet evaluate --model "$run" --data "$data" --split test
unet predict "$data/test/images" --model "$run" --output "$run/predictions" --save mask,color,overlay

echo
echo "The run, its model and its report:   $run"
echo "Masks of the test images:            $run/predictions"
echo "Compare runs in a browser:           mlflow ui    (in this directory, after: source .venv/bin/activate)"
