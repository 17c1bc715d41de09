#!/usr/bin/env bash
# The searches of searches.md. Run it in the repository's root; what is there already is not run again.
set -euo pipefail

# trials, on the digits: minutes each on two cores
for name in nas_grid_tpe nas_compression_aware mixed_precision_formats; do
    halut search experiment=$name trainer.threads=1 --out runs/search/$name --results runs/search/records
    mkdir -p benchmarks/searches/$name
    cp runs/search/$name/{search.json,trials.csv,curves.png} benchmarks/searches/$name
done

# ResNet-8 on Fashion-MNIST, its six 3x3 layers, not trained: an hour a seed
network="data=fashion_mnist model=resnet8 data.batch_size=64 base.epochs=10 base.cache=runs/base policy=conv3x3"
flags="--threads 1 --samples 2000 --all --random 100 --rounds 40 --results runs/search/tables_records"
for seed in 0 1 2; do
    # tables of equal bytes
    halut search budget=table_bytes:28672,57344,114688 $network seed=$seed $flags --out runs/search/equal_$seed --options \
        'tree C=8,16,32,64 K=16' 'pq C=8,16,32,48,64 K=16' 'pq C=16,32,48,64 K=8' 'pq C=16,32 K=8,16 bits=4' \
        'pq C=8,16,32,48 K=16 output_metric=true' 'pq C=16,32,48,64 K=8 output_metric=true' \
        'pq C=16,24,32,48,64 K=8,16 bits=4 clip=mse output_metric=true'
    # one number of codebooks everywhere
    for C in 8 16 32; do
        for encoder in tree pq; do
            python train.py $network seed=$seed halut=$encoder halut.C=$C halut.K=16 schedule=all_at_once \
                schedule.epochs=0 baseline=false ptq=none run_dir=runs/search/uniform/${encoder}_${C}_$seed \
                results=benchmarks/searches/uniform
        done
    done
    # number formats, bases and tables together, of equal bytes and of equal bit operations
    halut search budget=bytes:36400,45600,54900,bops:345M,370M,420M $network seed=$seed $flags --out runs/search/mixed_$seed --options \
        MIXED
    for name in equal_$seed mixed_$seed; do
        mkdir -p benchmarks/searches/$name
        cp runs/search/$name/search.json benchmarks/searches/$name
    done
done

python benchmarks/searches.py
