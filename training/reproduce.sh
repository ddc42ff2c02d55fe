#!/bin/sh
# Trains codecflow-tiny from DATA (laid out as README.md says): about 25 minutes on one GPU and 16 cores. Each step is left alone
# once it is finished and goes on where it was stopped, so the same command resumes.
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
mkdir -p "$work"

[ -e "$work/pack/done" ] || { "$python" training/prepare.py --data "$data" --pack "$work/pack" && touch "$work/pack/done"; }

film() { "$python" training/film.py --pack "$work/pack" "$@"; }
film --split train --seed 0 --out "$work/scenes-0" --singles 16000 --strides 6000 --windows 3000 --longs 600
film --split train --seed 1 --out "$work/scenes-1" --singles 4000 --strides 1500 --windows 3000 --longs 320
film --split val --seed 7 --out "$work/held-out" --singles 800 --strides 200 --windows 60 --longs 24 --export "$work/held-out-clips"

train() { "$python" training/train.py --real "$work/pack/real" --held-out "$work/held-out" "$@"; }
train --scenes "$work/scenes-0" --out "$work/first" --minutes 13.5
# Scenes that it has not seen, at a lower rate: what it knew by heart it now has to know.
train --scenes "$work/scenes-1" --out "$work/second" --start "$work/first/trained.safetensors" --rate 2e-4 --early 0 --minutes 3

cp "$work/second/trained.safetensors" models/codecflow-tiny/trained.safetensors
echo "models/codecflow-tiny/trained.safetensors is new. Its scores:"
echo "    codecflow eval $work/pack/test/spec.csv --model codecflow-tiny --window 8 --stride 2"
echo "    codecflow eval $work/held-out-clips/spec.csv --model codecflow-tiny --window 8 --stride 2"
