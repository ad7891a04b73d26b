"""Knowledge distillation: the quantized model learns from what the float model says."""

from __future__ import annotations

from typing import Any

from qat_round._compat import keras, tf
from qat_round._validate import real


@keras.utils.register_keras_serializable(package="qat_round")
class Distiller(keras.Model):
    """Trains a student to say what a teacher says; compiles and fits as any other model.

    With z, z' the logits of student and teacher, T = temperature, s = share:
        loss = (1 - s) compiled loss(labels, z) + s T^2 CE(softmax(z'/T), softmax(z/T))
    where CE is the cross-entropy, mean over the batch, each sample times its `sample_weight`; the
    student's own losses are added. T^2 keeps the gradient's size whatever T is.
    With share=1 no labels are needed. The student is trained in place, the teacher is not; what the
    model predicts and evaluates is the student. Save the student, not this.

    Args:
        student: the quantized model.
        teacher: the float model, of the same inputs and output shapes.
        share: s, 0 <= share <= 1.
        temperature: T > 0.
        from_logits: whether outputs are logits; False for probabilities, as of a softmax, from
            which the logits are taken back by a logarithm.

    Raises:
        ValueError: if the outputs' shapes differ, a setting is outside its interval, or share is
            below 1 and `fit` is given no labels.
        TypeError: if a setting is no number, or one of the two no tf_keras model.

    Example:
        >>> import numpy as np
        >>> net = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
        >>> student = keras.models.clone_model(net)
        >>> distiller = Distiller(student, net, share=1.0)
        >>> distiller.compile("adam")
        >>> history = distiller.fit(np.ones((8, 3)), epochs=1, verbose=0)
        >>> sorted(history.history)
        ['loss']

    Source: Hinton et al. 2015, arXiv:1503.02531; for low bits Mishra and Marr 2018,
        arXiv:1711.05852.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        share: float = 0.9,
        temperature: float = 2.0,
        from_logits: bool = True,
    ):
        super().__init__()
        _check_models(student, teacher)
        self.share = real(share, self, "share")
        self.temperature = real(temperature, self, "temperature")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"Distiller: share={share} has to be in 0 <= share <= 1.")
        if not 0.0 < self.temperature < float("inf"):
            raise ValueError(f"Distiller: temperature={temperature} has to be positive and finite.")
        self.from_logits = bool(from_logits)
        self.student = student
        self.teacher = teacher
        self._total = keras.metrics.Mean(name="loss")

    @property
    def trainable_weights(self) -> list[Any]:
        return self.student.trainable_weights

    @property
    def non_trainable_weights(self) -> list[Any]:
        return self.student.non_trainable_weights

    def call(self, inputs: Any, training: Any = None) -> Any:
        return self.student(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
    ) -> Any:
        """The compiled loss and the teacher's, in their shares."""
        theirs = tf.nest.flatten(self.teacher(x, training=False))
        ours = tf.nest.flatten(y_pred)
        weights = self._weights_of(sample_weight, len(ours))
        parts = zip(theirs, ours, weights, strict=True)
        soft = tf.add_n([self._soft_loss(a, b, weight) for a, b, weight in parts])
        loss = self._in_shares(soft, x, y, y_pred, sample_weight)
        self._total.update_state(loss)
        return loss

    def _in_shares(self, soft: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        own = tf.add_n(self.student.losses) if self.student.losses else 0.0
        if self.share == 1.0:
            return soft + own
        if y is None:
            raise ValueError(
                f"Distiller: share={self.share} needs labels for the rest; fit with (x, y), or "
                "give share=1.0."
            )
        hard = self.compiled_loss(y, y_pred, sample_weight)
        return (1.0 - self.share) * hard + self.share * soft + own

    @staticmethod
    def _weights_of(sample_weight: Any, outputs: int) -> list[Any]:
        """One for each output: as given, or the same for all."""
        given = tf.nest.flatten(sample_weight)
        return given if len(given) == outputs else given[:1] * outputs

    def _soft_loss(self, theirs: Any, ours: Any, sample_weight: Any) -> Any:
        theirs, ours = (tf.cast(z, tf.float32) for z in (theirs, ours))
        if not self.from_logits:
            theirs, ours = (tf.math.log(tf.maximum(p, 1e-7)) for p in (theirs, ours))
        wanted = tf.nn.softmax(theirs / self.temperature)
        loss = tf.nn.softmax_cross_entropy_with_logits(wanted, ours / self.temperature)
        if sample_weight is not None:
            weight = tf.cast(sample_weight, loss.dtype)
            loss *= tf.reshape(weight, [-1, *[1] * (loss.shape.rank - 1)])
        return self.temperature**2 * tf.reduce_mean(loss)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError(
            "A Distiller is for training only: save its student, distiller.student.save(path)."
        )


def _check_models(student: Any, teacher: Any) -> None:
    for word, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, keras.Model):
            raise TypeError(f"Distiller: {word} is a {type(model).__name__}, no tf_keras model.")
    shapes = [[tuple(t.shape) for t in tf.nest.flatten(m.outputs)] for m in (student, teacher)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Distiller: the student's outputs have shapes {shapes[0]}, the teacher's {shapes[1]}; "
            "they have to be the same. Cut the teacher: "
            "tf_keras.Model(teacher.inputs, teacher.layers[i].output)."
        )
