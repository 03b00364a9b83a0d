"""Speed beside the peers: every library in a process of its own, taking turns on the same work.

    python -m benchmarks.train_step     one training step
    python -m benchmarks.fit            whole epochs of the article's program on Fashion-MNIST

Adding a model is adding a line to `models.TABLE`; adding a peer, a line to `peers.TABLE` and a
short file. `harness` explains how time is measured, `report` how it is shown.
"""
