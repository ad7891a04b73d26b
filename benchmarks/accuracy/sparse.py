"""Pruned and clustered models through QAT: ours beside TFMOT's own PQAT and CQAT.

    python -m benchmarks.accuracy.sparse            three seeds
    python -m benchmarks.accuracy.sparse --seeds 1

The plain net of `accuracy.nets` on mnist5k is trained, pruned to 80 % or clustered to 16 values by
TFMOT, quantized and trained on, by each in its own way, and exported.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.timing import save  # first: it sets TF_USE_LEGACY_KERAS

TITLE = "Pruned and clustered models: zeros and clusters through QAT and export"
NOTES = """\
mnist5k, the plain net: 8 epochs in float, 3 of pruning to 80 % (clusters: 16 a kernel, k-means++,
1 epoch), 3 of QAT, Adam. Ours is calibrated on 256 images before QAT; TFMOT has no calibration, its
ranges follow training from -6..6 on. *start*: of the pruned or clustered float model, on 1,000 test
images. *accuracy*: of the quantized Keras model; *in the file*: of the int8 file. *zeros %*: in the
file's kernels, the least of the four. *values*: different integers in a kernel of the file, the
most of the four. *values of a channel*: the same for one output channel. *same %*: logits of the
file that are the quantized Keras model's, integer for integer; *furthest*: in steps."""
SHARE, CLUSTERS = 0.8, 16
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    rows: list[dict[str, Any]] = []
    for seed in range(parser.parse_args().seeds):
        rows += list(_of_seed(seed))
        save("sparse", TITLE, rows, NOTES)


def _of_seed(seed: int) -> Any:
    """The rows of one seed: two models, each by ours and by TFMOT."""
    import tf_keras as keras

    from benchmarks.accuracy.data import mnist5k
    from benchmarks.accuracy.nets import plain

    data = mnist5k()
    keras.utils.set_random_seed(seed)
    model = _trained(plain(data), data, 8, 3e-3)
    for kind, make in (("pruned", _pruned), ("clustered", _clustered)):
        keras.utils.set_random_seed(seed)
        start = make(_copy(model), data)
        for method, quantize in ((f"ours, {kind}", _ours), (_THEIRS[kind], _theirs)):
            keras.utils.set_random_seed(seed)
            found = _figures(_trained(quantize(start, kind, data), data, 3, 1e-3), data)
            row = {"seed": seed, "model": kind, "method": method, "start": _accuracy(start, data)}
            print(row | found, flush=True)
            yield row | found


_THEIRS = {"pruned": "TFMOT, PQAT", "clustered": "TFMOT, CQAT"}


def _trained(model: Any, data: Any, epochs: int, rate: float, callbacks: Any = ()) -> Any:
    import tf_keras as keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    given = {"batch_size": BATCH, "epochs": epochs, "verbose": 0, "callbacks": list(callbacks)}
    model.fit(data.train, data.train_labels, **given)
    return model


def _copy(model: Any) -> Any:
    import tf_keras as keras

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _pruned(model: Any, data: Any) -> Any:
    """Four of five weights of each kernel zero."""
    import tensorflow_model_optimization as tfmot

    sparsity = tfmot.sparsity.keras
    steps = 2 * len(data.train) // BATCH
    schedule = sparsity.PolynomialDecay(0.0, SHARE, 0, steps, frequency=10)
    wrapped = sparsity.prune_low_magnitude(model, schedule)
    return sparsity.strip_pruning(_trained(wrapped, data, 3, 1e-3, [sparsity.UpdatePruningStep()]))


def _clustered(model: Any, data: Any) -> Any:
    """Sixteen different weights in each kernel."""
    import tensorflow_model_optimization as tfmot

    clustering = tfmot.clustering.keras
    start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
    wrapped = clustering.cluster_weights(
        model, number_of_clusters=CLUSTERS, cluster_centroids_init=start
    )
    return clustering.strip_clustering(_trained(wrapped, data, 1, 1e-3))


def _ours(model: Any, kind: str, data: Any) -> Any:
    import qat_round as qr

    word = {"pruned": "sparsity", "clustered": "clusters"}[kind]
    quantized = qr.quantize_model(model, preserve=word)
    qr.calibrate(quantized, data.train[:256])
    return quantized


def _theirs(model: Any, kind: str, data: Any) -> Any:
    import tensorflow_model_optimization as tfmot

    combine = tfmot.experimental.combine
    schemes = {
        "pruned": combine.Default8BitPrunePreserveQuantizeScheme,
        "clustered": combine.Default8BitClusterPreserveQuantizeScheme,
    }
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    return tfmot.quantization.keras.quantize_apply(annotated, schemes[kind]())


def _accuracy(model: Any, data: Any) -> float:
    return 100.0 * float(
        np.mean(model.predict(data.test, verbose=0).argmax(-1) == data.test_labels)
    )


def _figures(model: Any, data: Any) -> dict[str, Any]:
    """Accuracy of the model and of its file, and what the file's kernels hold."""
    import qat_round as qr
    from qat_round.files.interpreter import Runner
    from qat_round.files.tflite_file import TFLiteFile

    file = TFLiteFile(qr.export_tflite(model))
    runner = Runner(file)
    (name,) = runner.inputs
    answers = runner({name: data.test})[0]
    parity = qr.verify_tflite(model, file.content, data.test[:256], allow_float=True)
    kinds = ("CONV_2D", "FULLY_CONNECTED")
    kernels = [runner.read_raw(op.inputs[1]) for op in file.operators if op.name in kinds]
    return {
        "accuracy": _accuracy(model, data),
        "in the file": 100.0 * float(np.mean(answers.argmax(-1) == data.test_labels)),
        "zeros %": min(100.0 * float(np.mean(kernel == 0)) for kernel in kernels),
        "values": max(len(np.unique(kernel)) for kernel in kernels),
        "values of a channel": max(len(np.unique(row)) for kernel in kernels for row in kernel),
        "same %": 100.0 * parity.outputs[0].same,
        "furthest": parity.max_steps,
    }


if __name__ == "__main__":
    main()
