#!/usr/bin/env bash
# What goes to the leaderboard: two encoders and a causal model, by folds each, averaged.
#
#     docs/leaderboard.sh OUTPUT
#
# on the national corpus, where data/README.md says that it lies, the test file from the beginning:
# OUTPUT/average/test.jsonl is the file to hand in. A run that was begun goes on, and one that is
# finished is not made again, so the script may be stopped and repeated. Other models and files by
# the variables below; their paths count from the repository.
set -euo pipefail
mkdir -p "${1:?say where the runs go: docs/leaderboard.sh OUTPUT}"
output=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

: "${FOLDS:=5}"
: "${KCELECTRA:=beomi/KcELECTRA-base-v2022}" "${ROBERTA:=klue/roberta-large}"
: "${GPT:=nlpai-lab/kullm-polyglot-12.8b-v2}"
: "${BERT_FLAGS:=}" "${GPT_FLAGS:=}" # further flags of the scripts, as --epochs 1
: "${FILES:=}"                       # as --train-file A --dev-file B --test-file C

run() { # NAME SCRIPT FLAGS...: by folds
  local name=$1 script=$2 fold directory
  shift 2
  for ((fold = 0; fold < FOLDS; fold++)); do
    directory=$output/$name-$fold
    # shellcheck disable=SC2086 # flags are words
    python "$script" "$@" $FILES --folds "$FOLDS" --fold "$fold" --output-dir "$directory" --resume
    runs+=("$directory")
  done
}

average=$output/average
if [[ -e $average ]] && ! grep -qs '"script": "ensemble.py"' "$average/run.json"; then
  echo "$average: is no average; take it away, or give another OUTPUT" >&2
  exit 2
fi
runs=()
# shellcheck disable=SC2086
run kcelectra bert_plain.py --model "$KCELECTRA" $BERT_FLAGS
# shellcheck disable=SC2086
run roberta bert_plain.py --model "$ROBERTA" $BERT_FLAGS
# shellcheck disable=SC2086
run gpt gpt_train.py --model "$GPT" --objective head $GPT_FLAGS
if ! grep -qs '"seconds"' "$average/run.json"; then
  rm -rf "$average" # of an attempt that was stopped
  python ensemble.py "${runs[@]}" --weights tuned --output-dir "$average"
fi
if [[ -e "$average/test.jsonl" ]]; then
  echo "to hand in: $average/test.jsonl"
else
  echo "the average was made without a test file; to predict one (each line has scores" \
    "besides, which the file to hand in has not: sed 's/, \"scores\": {.*}}$/}/' takes them away):" \
    "python predict.py $(printf %q "$average") --input FILE --output FILE"
fi
