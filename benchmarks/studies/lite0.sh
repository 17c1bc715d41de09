#!/usr/bin/env bash
# EfficientNet-Lite0 with ImageNet's weights: each pointwise convolution alone, on crops of 19 photos.
# Run it in the repository's root; what the store holds already is not measured again.
set -euo pipefail
store=benchmarks/studies/lite0
[ -d runs/photos ] || python benchmarks/lite0_photos.py --weights runs/lite0.safetensors --out runs/photos
network="model=any model.name=tf_efficientnet_lite0 model.pretrained=true
    model.weights=runs/lite0.safetensors data=image_folder data.root=runs/photos
    data.classes=runs/photos/classes.txt data.workers=0 data.eval_batch_size=16 policy=pointwise"
learned="--calibration 264 --threads 1 --results $store"

# both scores, at three sites
halut sensitivity $network $learned --samples 192 --fisher-samples 264 \
    --sites blocks.1.0.conv_pw blocks.4.0.conv_pwl conv_head \
    --options 'tree V=8' 'pq V=8' 'integer width=8' 'integer width=4'

# the rise of the loss that gradients predict, at all 32 sites
halut sensitivity $network $learned --rows 8192 --scores fisher --fisher-samples 132 \
    --options 'tree V=4' 'pq V=4' 'integer width=4,8'

# what is lost, at five of them
halut sensitivity $network $learned --rows 8192 --scores measured --samples 192 \
    --sites conv_head blocks.0.0.conv_pw blocks.2.0.conv_pw blocks.4.0.conv_pw blocks.6.0.conv_pwl \
    --options 'tree V=4' 'pq V=4' 'integer width=4,8'
