#!/bin/sh
# Trains codecflow-tiny from DATA (laid out as README.md says): some two and a half hours on one GPU and 16 cores, 40 minutes
# on four GPUs and 64. Each step is left alone once it is finished and goes on where it was stopped: the same command resumes.
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
gpus=$("$python" -c 'import torch; n = torch.cuda.device_count(); print(4 if n >= 4 else max(1, min(2, n)))')
cores=$("$python" -c 'import os; print(os.cpu_count())')
mkdir -p "$work"

[ -e "$work/pack/done" ] || { "$python" training/prepare.py --data "$data" --pack "$work/pack" && touch "$work/pack/done"; }

# Several films at a time, with a thread for each core each, would mostly wait for each other.
film() { OMP_NUM_THREADS=4 "$python" training/film.py --pack "$work/pack" --workers $((cores / gpus)) "$@"; }
film --split val --seed 100 --out "$work/held-out" --singles 800 --strides 200 --windows 60 --longs 24 \
    --export "$work/held-out-clips" --workers "$cores"

# run NUMBER SHARE ARGUMENTS: scenes of its own, as many banks at a time as there are GPUs, and training on them for SHARE
# of MINUTES.
run() {
    number=$1 folder=$work/run-$1 share=$2
    shift 2
    if [ -e "$folder/trained/held-out.json" ]; then
        rm -rf "$folder"/scenes-[0-3]
        return
    fi
    mkdir -p "$folder"
    filming=
    for bank in 0 1 2 3; do
        CUDA_VISIBLE_DEVICES=$((bank % gpus)) film --split train --seed $((number * 4 + bank)) \
            --out "$folder/scenes-$bank" --singles 30000 --strides 10000 --windows 7500 --longs 1000 &
        filming="$filming $!"
        if [ $(((bank + 1) % gpus)) -eq 0 ]; then
            for each in $filming; do wait "$each"; done
            filming=
        fi
    done
    "$python" -m torch.distributed.run --standalone --nproc-per-node "$gpus" training/train.py --seed "$number" \
        --scenes "$folder"/scenes-[0-3] --real "$work/pack/real" --held-out "$work/held-out" --out "$folder/trained" \
        --minutes "$("$python" -c "print(${MINUTES:-60} * $share / $gpus)")" "$@"
    [ -e "$folder/trained/held-out.json" ] || exit 1 # it was stopped
    rm -rf "$folder"/scenes-[0-3]
}
run 0 1
run 1 0.5 --begin-with "$work/run-0/trained/trained.safetensors" --early 0 --alone 100 --rate 2e-4

cp "$work/run-1/trained/trained.safetensors" models/codecflow-tiny/trained.safetensors
echo "models/codecflow-tiny/trained.safetensors is new. Its scores:"
echo "    codecflow eval $work/pack/test/spec.csv --model codecflow-tiny --window 8 --stride 2"
echo "    codecflow eval $work/held-out-clips/spec.csv --model codecflow-tiny --window 8 --stride 2"
echo "    codecflow eval $work/pack/fights/spec.csv --model codecflow-tiny --window 8 --stride 2"
