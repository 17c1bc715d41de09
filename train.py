"""Replace a network's matrix products stage by stage, retrain it, and report.

python train.py                                        the embedded digits, two minutes
python train.py data=fashion_mnist model=resnet8       real data, offline from a Debian package
python train.py model=resnet50 halut.C=32              ImageNet
python train.py --help                                 every group and option
"""

from halut.training.cluster import early_signals

if __name__ == "__main__":
    early_signals.install_signal_handlers()

from halut.training.main import main

if __name__ == "__main__":
    main()
