#!/usr/bin/env bash
# DS-CNN on synthetic keywords: each layer alone, and all pointwise layers at once.
# Run it in the repository's root; what the store holds already is not measured again.
set -euo pipefail
store=benchmarks/studies/ds_cnn
[ -d runs/speech ] || python benchmarks/synthetic_speech.py --out runs/speech
network="model=ds_cnn data=speech_commands data.root=runs/speech data.batch_size=100 base.epochs=20
    base.lr=2e-3 base.weight_decay=1e-3 base.cache=runs/base"
swapped="policy=pointwise schedule=all_at_once baseline=false ptq=none"

# each pointwise layer alone, then each depthwise one
halut sensitivity $network --sites '*.pointwise' --samples 768 --results $store --options \
    'tree C=8,16,32 K=8,16,32' 'tree C=16 K=16 bits=4' 'pq C=8,16,32 K=8,16,32' 'pq C=16 K=16 bits=4' \
    'integer width=2,3,4,8' 'lqnet width=1,2,3'
halut sensitivity $network policy.keep_depthwise=false --sites '*.depthwise' --samples 768 \
    --results $store --options 'tree C=1,3 K=16' 'pq C=1,3 K=16' 'integer width=3,4,8'

# all pointwise layers at once, not trained
halut sweep --no-training $network $swapped --results $store run_dir=runs/studies/ds_cnn/tables \
    halut=tree,pq halut.C=8,16,32 halut.K=16
halut sweep --no-training $network $swapped --results $store run_dir=runs/studies/ds_cnn/bits \
    halut=tree,pq halut.C=16 halut.bits=4
halut sweep --no-training $network $swapped --results $store run_dir=runs/studies/ds_cnn/integers \
    halut=integer halut.width=2,3,4,8
halut sweep --no-training $network $swapped --results $store run_dir=runs/studies/ds_cnn/bases \
    halut=lqnet halut.width=1,2,3

# the recipe's own size, with INT8 and INT4 beside it
python train.py $network policy=pointwise schedule=all_at_once schedule.epochs=0 \
    halut.V=8 results=$store run_dir=runs/studies/ds_cnn/recipe

# what it costs by three plans, and how long it takes here
for plan in "halut.V=8" "halut=pq halut.V=8" "halut=integer halut.width=4"; do
    halut cost model=ds_cnn data=speech_commands policy=pointwise $plan --latency --threads 2 --results $store
done
