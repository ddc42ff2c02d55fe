#!/usr/bin/env bash
# The paper's set-up on UCF-Crime's test videos, one model after another:
#   evaluation/ucf-crime/reproduce.sh ANNOTATIONS VIDEOS OUT [options of codecflow eval]
# In the environment: MODELS="a b", the checkpoints (hub ids or folders); PROMPT, ASK=class and PRESENT_ONLY=1, as make_spec.py's
# options; PYTHON, another interpreter.
set -euo pipefail

if [ $# -lt 3 ]; then
	sed -n '2,5s/^# *//p' "$0" >&2
	exit 2
fi
annotations=$1 videos=$2 out=$3
shift 3
here=$(dirname "$0")
python=${PYTHON:-python3}
models=${MODELS:-OpenGVLab/InternVL3-14B-hf Qwen/Qwen3-VL-32B-Instruct}
asking=(--ask "${ASK:-any}")
[ -z "${PROMPT:-}" ] || asking+=(--prompt "$PROMPT")
[ -z "${PRESENT_ONLY:-}" ] || asking+=(--present-only)
if ! "$python" -c 'import codecflow' 2>/dev/null; then
	echo "reproduce.sh: $python cannot import codecflow: pip install 'codecflow[plots]', or name another with PYTHON=" >&2
	exit 2
fi

mkdir -p "$out"
"$python" "$here/make_spec.py" "$annotations" "$videos" --out "$out/spec.csv" "${asking[@]}"
# The first four are the paper's table: nothing saved, pruning alone, KV refresh alone, both. The others do not refresh.
policies=all/all,motion/all,all/anchors,motion/anchors,motion/none,replenish/none
# One clip at a time: the KV of one window (4 to 5 GB) is what fits next to 64 GB of weights. With more memory, add --streams 8.
for model in $models; do
	folder="$out/$(basename "$model")"
	mkdir -p "$folder"
	"$python" -m codecflow eval "$out/spec.csv" --model "$model" \
		--window 40 --stride 8 --fps 2 --transcode fps=2,gop=16 --coverage 8 --streams 1 \
		--policies "$policies" --out "$folder" "$@" | tee "$folder/report.txt"
	tail -n 1 "$folder/report.txt" >"$folder/scores.json"
	"$python" "$here/score_videos.py" "$out/spec.csv" "$folder" | tee "$folder/videos.txt"
	tail -n 1 "$folder/videos.txt" >"$folder/videos.json"
done
