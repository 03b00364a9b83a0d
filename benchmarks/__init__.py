"""Speed beside the peers: every library in a process of its own, taking turns on the same work.

    python -m benchmarks.train_step     one training step
    python -m benchmarks.fit            whole epochs of the article's program on Fashion-MNIST
    python -m benchmarks.time_to_accuracy  seconds to a test accuracy, of recipes beside the peers
    python -m benchmarks.inference      models in evaluation mode
    python -m benchmarks.layers         layers alone, pass by pass
    python -m benchmarks.several_machines  a step that processes share, term by term

Adding a model is adding a line to `models.TABLE`; a layer, a line to `layers.inc`, which the C++
benchmarks in `kernels/` read too; a peer, a line to `peers.TABLE` and a short file. `harness`
explains how time is measured, `report` and `layer_report` how it is shown.
"""
