"""Quantization: an ONNX graph's convolutions and matrix products in int8, by NNCF.

NNCF's post-training quantization takes ranges by channel for weights and by tensor for activations,
and moves large activations into the weights beside them (SmoothQuant). It leaves softmax and layer
norms in float32; so does this module with everything next to physical units. NNCF's correction of
biases is off, ranges are the full observed ones, and products cannot overflow: of NNCF's settings
these left the demo's policy nearest to the torch policy, on both runtimes.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.deploy.telemetry import import_nncf

FLOATING = (
    "resize.*", "standard.*", "pixels.*", "state_proj.*", "environment_proj.*", "head.*",
    "physical.*",
)  # fmt: skip
"""Patterns of the names of nodes that stay in float32: their inputs or outputs are in physical
units, and together they take less than 1 % of the time of a call."""


def quantize(
    model: onnx.ModelProto, observations: Sequence[dict[str, NDArray[Any]]]
) -> onnx.ModelProto:
    """Return a copy of the float32 graph with its convolutions and matrix products in int8.

    `observations` are inputs by name, as the runtime takes them; a few hundred are enough.
    """
    if not observations:
        raise BadInput("int8 takes its ranges from observations, and there are none; give --data")
    nncf = import_nncf()
    nncf.set_log_level(logging.ERROR)
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        quantized = nncf.quantize(
            onnx.ModelProto.FromString(model.SerializeToString()),
            nncf.Dataset(list(observations)),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(observations),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=True,
                # Half the range for weights: processors without VNNI add two 8-bit products in 16
                # bits, which overflows, and both runtimes then give other answers there.
                overflow_fix=nncf.OverflowFix.ENABLE,
                activations_range_estimator_params=ranges,
            ),
            ignored_scope=nncf.IgnoredScope(patterns=list(FLOATING), validate=False),
        )
    onnx.checker.check_model(quantized)
    return quantized
