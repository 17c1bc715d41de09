#!/usr/bin/env bash
# The searches of searches.md. Run it in the repository's root; what is there already is not run again.
set -euo pipefail

# trials, on the digits: minutes each on two cores
for name in nas_grid_tpe nas_compression_aware mixed_precision_formats; do
    halut search experiment=$name trainer.threads=1 --out runs/search/$name --results runs/search/records
    mkdir -p benchmarks/searches/$name
    cp runs/search/$name/{search.json,trials.csv,curves.png} benchmarks/searches/$name
done

# tables of equal bytes, ResNet-8 on Fashion-MNIST: half an hour a seed
network="data=fashion_mnist model=resnet8 data.batch_size=64 base.epochs=10 base.cache=runs/base policy=conv3x3"
for seed in 0 1; do
    halut search budget=table_bytes:28672,57344,114688 $network seed=$seed --threads 1 --samples 2000 --all \
        --random 100 --rounds 8 --out runs/search/tables_$seed --results runs/search/tables_records --options \
        'tree C=4,6,8,12,16,24,32,48,64 K=16' 'pq C=4,6,8,12,16,24,32,48,64 K=16' \
        'tree C=16,32 K=8,32' 'pq C=16,32 K=8,32'
    mkdir -p benchmarks/searches/tables_$seed
    cp runs/search/tables_$seed/search.json benchmarks/searches/tables_$seed
done

python benchmarks/searches.py
