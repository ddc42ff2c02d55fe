#!/bin/sh
# Trains codecflow-tiny from DATA (laid out as README.md says): some 45 minutes on one GPU and 16 cores, 25 on two GPUs and
# 32. Each step is left alone once it is finished and goes on where it was stopped: the same command resumes.
#
#     training/reproduce.sh DATA WORK
set -eu
if [ $# -ne 2 ]; then
    echo "usage: training/reproduce.sh DATA WORK" >&2
    exit 2
fi
data=$1 work=$2
cd "$(dirname "$0")/.."
export PYTHONPATH="services${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
gpus=$("$python" -c 'import torch; n = torch.cuda.device_count(); print(max(1, min(2, n)))')
cores=$("$python" -c 'import os; print(os.cpu_count())')
mkdir -p "$work"

[ -e "$work/pack/done" ] || { "$python" training/prepare.py --data "$data" --pack "$work/pack" && touch "$work/pack/done"; }

# Several films at a time, with a thread for each core each, would mostly wait for each other.
film() { OMP_NUM_THREADS=4 "$python" training/film.py --pack "$work/pack" --workers $((cores / gpus)) "$@"; }
film --split val --seed 100 --out "$work/held-out" --singles 800 --strides 200 --windows 60 --longs 24 \
    --export "$work/held-out-clips" --workers "$cores"

# Scenes, as many banks at a time as there are GPUs, and training on them.
run=$work/run
if [ ! -e "$run/trained/held-out.json" ]; then
    mkdir -p "$run"
    filming=
    for bank in 0 1; do
        CUDA_VISIBLE_DEVICES=$((bank % gpus)) film --split train --seed $((20 + bank)) --out "$run/scenes-$bank" \
            --singles 24000 --strides 8000 --windows 6000 --longs 800 &
        filming="$filming $!"
        if [ "$gpus" -eq 1 ]; then
            wait "$!"
            filming=
        fi
    done
    for each in $filming; do wait "$each"; done
    "$python" -m torch.distributed.run --standalone --nproc-per-node "$gpus" training/train.py --seed 3 \
        --scenes "$run"/scenes-[01] --real "$work/pack/real" --held-out "$work/held-out" --out "$run/trained" \
        --minutes "$("$python" -c "print(${MINUTES:-31} / $gpus)")"
    [ -e "$run/trained/held-out.json" ] || exit 1 # it was stopped
fi
rm -rf "$run"/scenes-[01]

cp "$run/trained/trained.safetensors" models/codecflow-tiny/trained.safetensors
echo "models/codecflow-tiny/trained.safetensors is new. Its scores:"
echo "    codecflow eval $work/pack/test/spec.csv --model codecflow-tiny --window 8 --stride 2"
echo "    codecflow eval $work/held-out-clips/spec.csv --model codecflow-tiny --window 8 --stride 2"
echo "    codecflow eval $work/pack/fights/spec.csv --model codecflow-tiny --window 8 --stride 2"
