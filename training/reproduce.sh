#!/bin/sh
# Trains codecflow-tiny from DATA (laid out as README.md says): some 40 minutes on one GPU and 16 cores, 25 on two GPUs and
# 32. Each step is left alone once it is finished and goes on where it was stopped: the same command resumes. REHEARSE=1 does
# all of it with few scenes and three steps, on a CPU too, and leaves the model in the repository alone.
#
#     training/reproduce.sh DATA WORK
set -eu
if [ $# -ne 2 ]; then
    echo "usage: training/reproduce.sh DATA WORK" >&2
    exit 2
fi
data=$(cd "$1" && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH="services${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
gpus=$("$python" -c 'import torch; n = torch.cuda.device_count(); print(max(1, min(2, n)))')
cores=$("$python" -c 'import os; print(os.cpu_count())')
pack=$work/pack run=$work/run

scenes="--singles 24000 --strides 8000 --windows 6000 --longs 800"
held_out="--singles 800 --strides 200 --windows 60 --longs 24"
amount="--minutes $("$python" -c "print(${MINUTES:-31} / $gpus)")"
if [ -n "${REHEARSE:-}" ]; then
    scenes="--singles 40 --strides 8 --windows 4 --longs 1" held_out=$scenes
    amount="--steps 3 --report 1 --scale 0.01 --workers 1" run=$work/rehearsal
fi

mkdir -p "$run"
[ -e "$pack/done" ] || { "$python" training/prepare.py --data "$data" --pack "$pack" && touch "$pack/done"; }

# Several films at a time, with a thread for each core each, would mostly wait for each other.
film() { OMP_NUM_THREADS=4 "$python" training/film.py --pack "$pack" --workers $((cores / gpus)) "$@"; }
# shellcheck disable=SC2086 # several arguments each: $held_out, $scenes, $amount
film --split val --seed 100 --out "$run/held-out" $held_out --export "$run/held-out-clips" --workers "$cores"

# Two banks of scenes, at a time where there are two GPUs, and training on them.
bank() (
    export CUDA_VISIBLE_DEVICES=$(($1 % gpus))
    # shellcheck disable=SC2086
    film --split train --seed $((20 + $1)) --out "$run/scenes-$1" $scenes
)
if [ ! -e "$run/trained/held-out.json" ]; then
    if [ "$gpus" -eq 1 ]; then
        bank 0
        bank 1
    else
        bank 0 &
        bank 1
        wait "$!"
    fi
    # shellcheck disable=SC2086
    "$python" -m torch.distributed.run --standalone --nproc-per-node "$gpus" training/train.py --seed 3 $amount \
        --scenes "$run"/scenes-[01] --real "$pack/real" --held-out "$run/held-out" --out "$run/trained"
    [ -e "$run/trained/held-out.json" ] || exit 1 # it was stopped
fi
rm -rf "$run"/scenes-[01]
# On real cameras: validation chooses, test is looked at once.
for split in validation test; do
    [ -e "$run/answers-$split.csv" ] || "$python" training/score.py --model "$run/trained/trained.safetensors" \
        --banks "$pack/$split" --out "$run/answers-$split.csv"
done
"$python" training/cameras.py report "$run/answers-validation.csv"

if [ -n "${REHEARSE:-}" ]; then
    echo "Rehearsed: $run/trained/trained.safetensors has learnt next to nothing, and is not taken."
    exit
fi
cp "$run/trained/trained.safetensors" models/codecflow-tiny/trained.safetensors
echo "models/codecflow-tiny/trained.safetensors is new. Its scores:"
echo "    python training/cameras.py report $run/answers-validation.csv $run/answers-test.csv"
echo "    codecflow eval $pack/test/spec.csv --model codecflow-tiny --window 8 --stride 2"
echo "    codecflow eval $run/held-out-clips/spec.csv --model codecflow-tiny --window 8 --stride 2"
