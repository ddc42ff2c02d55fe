#!/bin/sh
# Trains codecflow-tiny from DATA (laid out as README.md says): some 75 minutes on one GPU and 16 cores, 20 on four GPUs and 64.
# Each step is left alone once it is finished and goes on where it was stopped, so the same command resumes.
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

film() { "$python" training/film.py --pack "$work/pack" --workers $((cores / gpus)) "$@"; }
film --split val --seed 100 --out "$work/held-out" --singles 800 --strides 200 --windows 60 --longs 24 \
    --export "$work/held-out-clips" --workers "$cores"
# As many banks at a time as there are GPUs.
filming=
for bank in 0 1 2 3; do
    CUDA_VISIBLE_DEVICES=$((bank % gpus)) film --split train --seed $bank --out "$work/scenes-$bank" \
        --singles 30000 --strides 10000 --windows 7500 --longs 1000 &
    filming="$filming $!"
    if [ $(((bank + 1) % gpus)) -eq 0 ]; then
        for each in $filming; do wait "$each"; done
        filming=
    fi
done

"$python" -m torch.distributed.run --standalone --nproc-per-node "$gpus" training/train.py \
    --scenes "$work"/scenes-[0-3] --real "$work/pack/real" --held-out "$work/held-out" --out "$work/trained" \
    --minutes $((${MINUTES:-60} / gpus))

cp "$work/trained/trained.safetensors" models/codecflow-tiny/trained.safetensors
echo "models/codecflow-tiny/trained.safetensors is new. Its scores:"
echo "    codecflow eval $work/pack/test/spec.csv --model codecflow-tiny --window 8 --stride 2"
echo "    codecflow eval $work/held-out-clips/spec.csv --model codecflow-tiny --window 8 --stride 2"
echo "    codecflow eval $work/pack/fights/spec.csv --model codecflow-tiny --window 8 --stride 2"
