#!/usr/bin/env bash
# ResNet-8 on Fashion-MNIST: each layer alone, all six 3x3 layers at once, and calibration images.
# Run it in the repository's root; what the store holds already is not measured again.
set -euo pipefail
store=benchmarks/studies/resnet8
network="data=fashion_mnist model=resnet8 data.batch_size=64 base.epochs=10 base.cache=runs/base"
swapped="policy=conv3x3 schedule=all_at_once baseline=false ptq=none"

# each layer alone: encoders, codebooks, prototypes, bits; integers and learned bases beside them
halut sensitivity $network --samples 2000 --results $store --options \
    'tree C=8,16,32 K=8,16,32' 'tree C=16 K=16 bits=4' 'pq C=8,16,32 K=8,16,32' 'pq C=16 K=16 bits=4' \
    'integer width=2,3,4,8' 'lqnet width=1,2,3'

# how many images a layer is learned from
halut convergence $network --sites stack1.conv2 stack2.conv2 stack3.conv2 --samples 2000 --rows 65536 \
    --images 8,32,128,512,2048 --draws 3 --results $store --options 'tree C=16 K=16' 'pq C=16 K=16'

# all six at once, not trained
halut sweep --no-training $network $swapped --results $store run_dir=runs/studies/resnet8/tables \
    halut=tree,pq halut.C=8,16,32 halut.K=16
halut sweep --no-training $network $swapped --results $store run_dir=runs/studies/resnet8/prototypes \
    halut=tree,pq halut.C=16 halut.K=8,32
halut sweep --no-training $network $swapped --results $store run_dir=runs/studies/resnet8/bits \
    halut=tree,pq halut.C=16 halut.bits=4
halut sweep --no-training $network $swapped --results $store run_dir=runs/studies/resnet8/integers \
    halut=integer halut.width=3,4,8
halut sweep --no-training $network $swapped --results $store run_dir=runs/studies/resnet8/bases \
    halut=lqnet halut.width=2,3

# the recipe's own size, with INT8 and INT4 beside it
python train.py $network policy=conv3x3 schedule=all_at_once schedule.epochs=0 \
    halut.V=9 results=$store run_dir=runs/studies/resnet8/recipe

# what it costs by three plans, and how long it takes here
for plan in "halut.V=9" "halut=pq halut.V=9" "halut=integer halut.width=4"; do
    halut cost model=resnet8 data=fashion_mnist policy=conv3x3 $plan --latency --threads 2 --results $store
done
