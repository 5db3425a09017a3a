#!/bin/sh
# The headline study on a GPU, in slices: each is one command of at most about ten minutes.
#
#     experiments/headline.sh bench         does it run here, and how fast?
#     experiments/headline.sh cifar32 3     the ablation: seed 3, and what seeds 0 to 2 lack
#     experiments/headline.sh blog64 0      the same with the blog's networks
#     experiments/headline.sh precision 7   the three precisions at cifar32
#     experiments/headline.sh dry           all of these on the CPU, tiny: do the slices work?
#
# A slice trains groups of JOBS runs, or as many for each seed that is missing, and exports the
# records to OUT after each, so begin with seed 0. It stops before a group that would end after
# MINUTES, going by the longest so far; the same command goes on. States are not exported: a group
# that was cut off goes on where RUNS is still there, and starts anew elsewhere. Where RUNS has no
# such study, it starts from the archives in FROM.
#
# JOBS runs share the GPU; the images/s in the lines of the first epochs say whether more pay. Keep it
# until a seed is whole: records of half a run cannot go on on another machine.
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
DATA=${DATA:-}                # as of make ablation
DEVICE=${DEVICE:-cuda}
JOBS=${JOBS:-1}               # runs at a time
RUNS=${RUNS:-runs}            # where states lie
OUT=${OUT:-$RUNS/records}     # where the archives go
FROM=${FROM:-$OUT}            # where those of earlier slices lie
MINUTES=${MINUTES:-9}
SETTINGS=${SETTINGS:-}        # key=value words for every run
BENCH=${BENCH:-training epoch}

began=$(date +%s)
longest=0
failed=0                      # 1 once a run has: what the others made is exported all the same

usage() {
    sed -n '4,8s/^#     //p' experiments/headline.sh >&2
    exit 2
}

experiments() {
    "$PYTHON" -m experiments "$@"
}

# Some runs of study $1 at scale $2 with seeds up to $3; the rest are words that choose them.
group() {
    study=$1 scale=$2 last=$3
    shift 3
    start=$(date +%s)
    if [ $((start - began + longest)) -gt $((60 * MINUTES)) ]; then
        echo "headline.sh: $MINUTES minutes are over; the same command goes on"
        exit $failed
    fi
    experiments "$study" --scale "$scale" --seeds $((last + 1)) --device "$DEVICE" \
        --jobs "$JOBS" --out "$RUNS" ${DATA:+--data "$DATA"} "$@" $SETTINGS \
        || { failed=$?; [ "$failed" -eq 1 ] || exit "$failed"; }  # Ctrl-C and bad input end it
    for folder in "$RUNS/$study-$scale"*/; do
        experiments export "$folder" -o "$OUT/$(basename "$folder").zip"
    done
    took=$(($(date +%s) - start))
    [ "$took" -le "$longest" ] || longest=$took
}

# Every cell of study $1 at scale $2 with seeds up to $3, as many in a group as run at a time.
cells() {
    if [ "$JOBS" -ge 8 ]; then
        group "$@"
    elif [ "$1" = precision ]; then
        for arm in baseline tf32 bf16; do group "$@" "arm=$arm"; done
    else
        for norm in none batch; do
            [ "$JOBS" -lt 4 ] || { group "$@" "norm=$norm"; continue; }
            for head in conv avgpool; do
                [ "$JOBS" -lt 2 ] || { group "$@" "norm=$norm" "head=$head"; continue; }
                for batch in 128 512; do
                    group "$@" "norm=$norm" "head=$head" "batch=$batch"
                done
            done
        done
    fi
}

# Study $1 at scale $2 with seeds up to $3, after what earlier slices exported.
slice() {
    case $3 in '' | *[!0-9]*) usage ;; esac
    mkdir -p "$OUT"
    if ! ls "$RUNS/$1-$2"*/study.json >/dev/null 2>&1; then
        for archive in "$FROM/$1-$2"*.zip; do
            [ ! -e "$archive" ] || experiments import "$archive" --out "$RUNS"
        done
    fi
    cells "$@"
    return $failed
}

case ${1:-} in
bench)
    mkdir -p "$OUT"
    experiments ablation --scale smoke --data shapes --device "$DEVICE" --jobs "$JOBS" --out "$RUNS"
    experiments bench --device "$DEVICE" --out "$RUNS" --only $BENCH ${DATA:+--data "$DATA"}
    cp "$RUNS"/bench/*.json "$OUT"
    ;;
cifar32 | blog64) slice ablation "$1" "${2:-}" ;;
precision) slice precision cifar32 "${2:-}" ;;
dry)
    export DEVICE=cpu JOBS=8 DATA=shapes RUNS="$RUNS/dry" OUT="$OUT/dry" FROM="$OUT/dry"
    export SETTINGS="width=4 images=600 epochs=2 score_images=200 reference_images=400"
    SETTINGS="$SETTINGS inception=never"
    BENCH="training --quick" sh experiments/headline.sh bench
    for study in cifar32 blog64 precision; do sh experiments/headline.sh "$study" 0; done
    ;;
*) usage ;;
esac
