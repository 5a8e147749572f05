#!/usr/bin/env bash
# Continues the trainings of the two networks for Fashion-MNIST that will ship, whose state is in this folder. It is
# removed when they are done.
#
#     continue.sh RUNS
#
# RUNS is a folder of your own for the runs; one that holds them already is continued. There is one process per network,
# for two CPUs; with AMX a CPU trains about 700 and 550 images/s. The first 59 and 42 epochs ran without --compile, which
# only changes how the same steps are computed.
#
# Then copy model.safetensors and metrics.jsonl to models/pretrained/fashion-mnist-NAME.*, run `make pretrained`, write
# docs/fashion-mnist.md, and run `python -m tests.acceptance.training 1 6`.
set -euo pipefail
here=$(dirname "$0")
mkdir -p "$1"
for network in resnet20 wrn-16-2; do
    [ -e "$1/$network" ] || cp -r "$here/$network" "$1/"
    epochs=$([ "$network" = resnet20 ] && echo 300 || echo 200)
    OMP_NUM_THREADS=1 resnet-train --arch "$network" --data /usr/share/datasets/fashion-mnist --out "$1/$network" \
        --epochs "$epochs" --validation 3000 --crop 4 --erasing 0.5 --ema 0.999 --label-smoothing 0 --compile --resume &
done
wait
