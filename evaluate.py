"""Accuracy, errors per layer, plan, cost and latency of a run folder or a bundle.

python evaluate.py run=runs/mine                          on the test split
python evaluate.py run=bundle data.root=PATH json=FILE    data elsewhere, figures in a file
python evaluate.py --help                                 every option
"""

from halut.training.cluster import early_signals

if __name__ == "__main__":
    early_signals.install_signal_handlers()

from halut.training.evaluate import main

if __name__ == "__main__":
    main()
