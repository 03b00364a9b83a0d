"""Initialisers beside Keras', structure of the ones that are not random, patch whitening."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyconvopt import initializers, layers, models

os.environ.setdefault("KERAS_BACKEND", "torch")

RANDOM = [
    name
    for name in initializers.TABLE
    if name not in ("zeros", "ones", "constant", "identity", "dirac", "normal", "uniform")
]


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("shape", [(3, 3, 32, 64), (300, 200)], ids=str)
def test_statistics_beside_keras(name, shape):
    """Mean, deviation, largest value and fourth moment of both libraries' draws."""
    keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
    # Keras' name in its own module: "glorot_uniform" is GlorotUniform.
    kind = getattr(keras.initializers, "".join(part.title() for part in name.split("_")))
    theirs = kind(seed=1)(shape).detach().numpy()
    torch_shape = (64, 32, 3, 3) if len(shape) == 4 else shape[::-1]
    ours = initializers.get({"name": name, "config": {"seed": 1}})(torch.empty(torch_shape)).numpy()
    deviation = theirs.std()
    assert ours.std() == pytest.approx(deviation, rel=0.03)
    assert abs(ours.mean() - theirs.mean()) < 7 * deviation / ours.size**0.5
    fourth = [np.mean((each / deviation) ** 4) for each in (ours, theirs)]
    assert fourth[0] == pytest.approx(fourth[1], rel=0.1)
    if name in ("orthogonal", "random_normal"):
        return  # these have no bound
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.02)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (64, 4, 2, 2), (10, 10)], ids=str)
def test_orthogonal_rows_or_columns(shape):
    matrix = initializers.Orthogonal(gain=2.0)(torch.empty(shape)).flatten(1)
    gram = matrix @ matrix.t() if matrix.shape[0] <= matrix.shape[1] else matrix.t() @ matrix
    torch.testing.assert_close(gram, 4 * torch.eye(len(gram)), atol=1e-5, rtol=0)


def test_orthogonal_kernel_of_a_convolution():
    layer = layers.Conv2D(4, 3, kernel_initializer="orthogonal")
    layer.build((None, 8, 8, 5))
    matrix = layer.weight.detach().flatten(1)
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(4), rtol=0, atol=1e-5)


def test_identity_is_keras():
    weight = initializers.get({"name": "identity", "config": {"gain": 2.0}})(torch.empty(4, 6))
    assert torch.equal(weight, 2 * torch.eye(4, 6))
    keras = pytest.importorskip("keras", reason="Keras is an optional test dependency")
    theirs = keras.initializers.Identity(gain=2.0)((6, 4)).detach()
    assert torch.equal(weight.t(), theirs)


def test_dirac_hands_the_input_on():
    x = torch.randn(2, 7, 6, 4)
    model = models.Sequential(
        [
            layers.Conv2D(
                6, 3, padding="same", kernel_initializer="dirac", input_shape=(7, 6, 4)
            )
        ]
    )  # fmt: skip
    y = model(x)
    torch.testing.assert_close(y[..., :4], x)
    assert not y[..., 4:].any()
    grouped = initializers.Dirac(groups=2)(torch.empty(4, 2, 3, 3))
    assert torch.equal(F.conv2d(x.permute(0, 3, 1, 2), grouped, padding=1, groups=2),
                       x.permute(0, 3, 1, 2))  # fmt: skip


class TestArguments:
    def test_their_order_is_kerass(self):
        assert initializers.RandomNormal(0.5, 2.0, 3) == initializers.RandomNormal(
            mean=0.5, stddev=2.0, seed=3
        )
        uniform = initializers.RandomUniform(-1.0, 1.0, 3)
        assert (uniform.minval, uniform.maxval, uniform.seed) == (-1.0, 1.0, 3)
        scaling = initializers.VarianceScaling(2.0, "fan_out", "uniform", 3)
        assert (scaling.scale, scaling.mode, scaling.seed) == (2.0, "fan_out", 3)
        assert initializers.Orthogonal(2.0, 3) == initializers.Orthogonal(gain=2.0, seed=3)
        assert initializers.TruncatedNormal(0.0, 1.0).stddev == 1.0
        for name in RANDOM:
            if name.startswith(("glorot", "he", "lecun")):
                kind = initializers.TABLE[name]
                assert kind(3) == kind(seed=3) != kind()

    def test_kerass_short_names(self):
        assert initializers.get("normal") == initializers.RandomNormal()
        assert initializers.get("uniform") == initializers.RandomUniform()

    def test_a_seed_of_numpy(self):
        first = initializers.GlorotUniform(seed=np.int64(3))(torch.empty(4, 4))
        assert torch.equal(first, initializers.GlorotUniform(seed=3)(torch.empty(4, 4)))

    def test_no_deviation(self):
        weight = initializers.TruncatedNormal(mean=2.0, stddev=0.0)(torch.empty(3))
        assert weight.tolist() == [2.0] * 3

    @pytest.mark.parametrize("name", initializers.TABLE)
    def test_of_a_parameter(self, name):
        shape = (3, 3) if name == "identity" else (3, 3, 3, 3)
        weight = torch.nn.Parameter(torch.empty(shape))
        assert initializers.get(name)(weight) is weight and weight.grad_fn is None

    def test_refusals(self):
        for call, message in (
            (
                lambda: initializers.TruncatedNormal(stddev=-1.0),
                "stddev must be a number 0 or more",
            ),
            (lambda: initializers.RandomNormal(stddev="1"), "stddev must be a number .* got '1'"),
            (lambda: initializers.RandomUniform(1.0, -1.0), "minval must not be above maxval"),
            (lambda: initializers.VarianceScaling(0.0), "scale must be a number above 0, got 0"),
            (lambda: initializers.VarianceScaling(mode="fan_inn"), "did you mean 'fan_in'"),
            (lambda: initializers.GlorotUniform(seed="a"), "seed must be a whole number, got 'a'"),
        ):
            with pytest.raises(ValueError, match=message):
                call()


class TestOnesOwn:
    @pytest.mark.parametrize(
        "own", [lambda w: torch.full_like(w, 3.0), lambda w: w.fill_(3.0), lambda w: [w.fill_(3.0)]]
    )
    def test_that_fills_or_returns(self, own):
        dense = layers.Dense(2, kernel_initializer=own)
        dense.build((None, 4))
        norm = layers.BatchNormalization(
            moving_mean_initializer=own, moving_variance_initializer=own
        )
        norm.build((None, 4))
        for weight in (dense.weight, norm.running_mean, norm.running_var):
            assert weight.unique().tolist() == [3.0]

    def test_of_another_shape(self):
        dense = layers.Dense(2, kernel_initializer=lambda w: torch.ones(2, 1))
        with pytest.raises(ValueError, match=r"returned values of shape \(2, 1\) for a weight of"):
            dense.build((None, 4))


class TestWhitening:
    def images(self, samples=600):
        """Smooth images, so that neighbouring pixels are alike, of unequal channels."""
        noise = torch.randn(samples, 3, 12, 13)
        return F.avg_pool2d(noise, 3, 1) * torch.tensor([3.0, 1.0, 0.5]).view(3, 1, 1) + 2

    def test_outputs_are_white(self):
        x = self.images()
        weight = initializers.patch_whitening_(
            torch.empty(27, 3, 3, 3), x, eps=0, data_format="channels_first"
        )
        y = F.conv2d(x.double(), weight.double()).movedim(1, -1).reshape(-1, 27)
        torch.testing.assert_close(torch.cov(y.t()), torch.eye(27).double(), atol=2e-3, rtol=0)

    def test_filters_are_scaled_eigenvectors_largest_first_in_both_signs(self):
        x = self.images()
        weight = torch.empty(20, 3, 2, 2)
        initializers.patch_whitening_(weight, x.permute(0, 2, 3, 1).numpy(), eps=0.1)
        patches = F.unfold(x.double(), 2).movedim(1, 2).reshape(-1, 12)
        covariance = torch.cov(patches.t(), correction=0)
        rows = weight.flatten(1).double()
        sizes = torch.linalg.eigvalsh(covariance).flip(0)
        torch.testing.assert_close(rows[:12].square().sum(1), 1 / (sizes + 0.1), rtol=1e-4, atol=0)
        image = rows[:12] @ covariance
        torch.testing.assert_close(image, sizes[:, None] * rows[:12], rtol=1e-3, atol=1e-5)
        assert torch.equal(rows[12:], -rows[:8])

    def test_a_layer_of_a_model(self):
        x = self.images(50)[:, :1].permute(0, 2, 3, 1)
        model = models.Sequential([layers.Conv2D(8, 2, use_bias=False, input_shape=(10, 11, 1))])
        layer = model.layers[0]
        initializers.patch_whitening_(layer.weight, x)
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        expected = initializers.patch_whitening_(torch.empty(8, 1, 2, 2), x[..., 0])
        torch.testing.assert_close(layer.weight.detach(), expected)

    def test_refusals(self):
        x = torch.rand(10, 5, 5, 3)
        with pytest.raises(ValueError, match="give 24 whitening filters, got a kernel of 25"):
            initializers.patch_whitening_(torch.empty(25, 3, 2, 2), x)
        with pytest.raises(ValueError, match="needs images of 1 channels"):
            initializers.patch_whitening_(torch.empty(4, 1, 2, 2), x)
        with pytest.raises(ValueError, match="at least 7×7 pixels"):
            initializers.patch_whitening_(torch.empty(4, 3, 7, 7), x)
        weight = torch.empty(4, 3, 2, 2)
        for images, settings, message in (
            (x, {"data_format": "channels_frist"}, "did you mean 'channels_first'"),
            (x, {"eps": -1.0}, "eps must be 0 or more, got -1"),
            (x[:0], {}, "the images are empty"),
            (x * float("nan"), {}, "hold 750 values that are NaN"),
            (x[0, 0], {}, r"images of four, or three without channels"),
            (torch.ones_like(x), {"eps": 0.0}, "fewer directions than there are filters"),
        ):
            with pytest.raises(ValueError, match=message):
                initializers.patch_whitening_(weight, images, **settings)


def test_refusals():
    with pytest.raises(ValueError, match=r"identity fills dense kernels.* is dirac"):
        initializers.Identity()(torch.empty(2, 2, 3, 3))
    with pytest.raises(ValueError, match=r"dirac fills convolution kernels.* is identity"):
        initializers.Dirac()(torch.empty(2, 2))
