#!/usr/bin/env bash
# Train, evaluate and pack the checkpoint on a machine with a GPU: no ROS, no network, Python 3.10 to 3.12 with torch.
#
#   scripts/train_on_gpu.sh OUT
#
# Stopped at any moment, also by a time limit, the same command goes on where it was. At the end OUT/result.tar.gz holds
# the checkpoint, the curves and the tables. By environment variables, with their defaults:
#   MINUTES=16       of training, simulation of its scenes included; the evaluations come on top
#   RECIPE=all       of config/train_RECIPE.yaml
#   PROCESSES=4      that train, by torchrun: they share one GPU, each with 8 windows of a step; 1 where there is no CUDA.
#                    Batches of images (64) are shared out, so 1, 2, 4, 8, ...
#   SEED=0
#   LIMIT=12         scenes of split test that are evaluated
#   SETTINGS="SGDet PredCls"
#   PSG4D_IMAGES=    folder of the 2D data sets (docs/datasets.md); without it stage 1 is left out
#   WHEELS=          folder of wheels, installed where Python lacks them, from
#                    pip download -r requirements/core.in -r requirements/sim.in -r requirements/train.in --no-deps
#                    pip download -r requirements/no-deps.txt --no-deps
#   PYTHON=python3
#
# What was run of it: on a CPU all of it (docs/training.md says how), on an H100 only its command of training, by hand,
# stages 2 and 3 with four processes, other frames and fewer minutes.
set -euo pipefail
if [ $# -ne 1 ]; then
    echo "usage: $0 OUT" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

if [ -n "${WHEELS:-}" ]; then
    for wheel in "$WHEELS"/*.whl; do
        name=$(basename "$wheel" | cut -d- -f1)
        "$python" -c "import importlib.metadata as m; m.version('$name')" 2>/dev/null ||
            "$python" -m pip install --quiet --no-index --no-deps "$wheel"
    done
fi

psg4d() { "$python" -m psg4d_ros.cli "$@"; }

processes=${PROCESSES:-$("$python" -c 'import torch; print(4 if torch.cuda.is_available() else 1)')}
train=("$python")
batches=()
if [ "$processes" -gt 1 ]; then
    train+=(-m torch.distributed.run --nproc_per_node "$processes")
    for stage in stage2_geometry stage3_joint; do
        batches+=(--set "$stage.batch=$((8 * processes))")
    done
fi
"${train[@]}" -m psg4d_ros.cli train "${RECIPE:-all}" --out "$out/run" --minutes "${MINUTES:-16}" --seed "${SEED:-0}" \
    "${batches[@]}" --resume --json "$out/train.json"
for setting in ${SETTINGS:-SGDet PredCls}; do
    for method in model frequency rules; do
        table=$out/eval_${setting}_$method
        [ -f "$table.json" ] || psg4d eval sim --split test --limit "${LIMIT:-12}" --setting "$setting" --method "$method" \
            --checkpoint "$out/run/checkpoint" --train "$out/run/scenes/train" --json "$table.json" >"$table.txt"
        cat "$table.txt"
    done
done
cd "$out"
tar czf result.tar.gz train.json eval_* run/checkpoint run/run.json run/stage*/log.jsonl run/stage*/result.json
ls -l "$out/result.tar.gz"
