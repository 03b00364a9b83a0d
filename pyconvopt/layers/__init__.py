"""Layers with Keras' names and defaults, for `pyconvopt.models.Sequential`.

Arrays are channels last, (N, H, W, C); see `base` for how they lie in memory.
"""

from pyconvopt.layers.activation import (
    ELU,
    Activation,
    ActivityRegularization,
    LeakyReLU,
    PReLU,
    ReLU,
    Softmax,
)
from pyconvopt.layers.architecture import Architecture
from pyconvopt.layers.base import Layer
from pyconvopt.layers.batch_normalization_variants import (
    BatchRenormalization,
    GhostBatchNormalization,
)
from pyconvopt.layers.convolution import Conv2D
from pyconvopt.layers.convolution_variants import Conv1D, Conv2DTranspose
from pyconvopt.layers.core import Dense, Flatten, Input, InputLayer
from pyconvopt.layers.dropout import (
    DropBlock2D,
    Dropout,
    DropPath,
    ScheduledDropout,
    SpatialDropout2D,
)
from pyconvopt.layers.making import make_layer
from pyconvopt.layers.noise import AlphaDropout, GaussianDropout, GaussianNoise
from pyconvopt.layers.normalization import BatchNormalization
from pyconvopt.layers.per_sample_normalization import (
    FilterResponseNormalization,
    GroupNormalization,
    LayerNormalization,
)
from pyconvopt.layers.pooling import (
    AveragePooling2D,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    MaxPooling2D,
)
from pyconvopt.layers.preprocessing import Normalization, PatchWhitening
from pyconvopt.layers.reshaping import (
    Cropping2D,
    Rescaling,
    Reshape,
    UpSampling2D,
    ZeroPadding2D,
)
from pyconvopt.layers.residual import Residual
from pyconvopt.layers.views import MeanOfViews, Views

# The layers a saved model or a recipe may name: one line each.
TABLE: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Conv2D,
        Conv1D,
        Conv2DTranspose,
        MaxPooling2D,
        AveragePooling2D,
        GlobalAveragePooling2D,
        GlobalMaxPooling2D,
        Flatten,
        Dense,
        Dropout,
        SpatialDropout2D,
        DropBlock2D,
        DropPath,
        ScheduledDropout,
        GaussianDropout,
        GaussianNoise,
        AlphaDropout,
        BatchNormalization,
        GhostBatchNormalization,
        BatchRenormalization,
        LayerNormalization,
        GroupNormalization,
        FilterResponseNormalization,
        Activation,
        ReLU,
        LeakyReLU,
        ELU,
        PReLU,
        Softmax,
        ActivityRegularization,
        ZeroPadding2D,
        Cropping2D,
        UpSampling2D,
        Reshape,
        Rescaling,
        Normalization,
        PatchWhitening,
        Residual,
        Views,
        MeanOfViews,
        Architecture,
    )
}

__all__ = [*TABLE, "Input", "InputLayer", "Layer", "TABLE", "make_layer"]
