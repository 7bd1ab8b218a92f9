"""A graph's convolutions and products in 8-bit whole numbers, ranges taken from observations.

NNCF's post-training quantisation: ranges by channel for weights and by tensor for activations,
large activations moved into the weights beside them (SmoothQuant). It leaves softmax and layer
norms alone; what stands next to physical units is left alone here. NNCF's correction of biases is
off, ranges are those seen at all, and products cannot overflow: of NNCF's settings these left the
demo's policy nearest to the torch policy, on both runtimes alike.
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

FLOATING = ("resize.*", "standard.*", "pixels.*", "state_proj.*", "head.*", "physical.*")
"""Nodes that stay in float32, by their names' beginnings: their inputs or results are values in
physical units, and together they cost less than a hundredth of an answer."""


def quantised(
    model: onnx.ModelProto, observations: Sequence[dict[str, NDArray[Any]]]
) -> onnx.ModelProto:
    """The graph with its convolutions and products in int8; the one given is left as it is.

    observations: inputs by name, as the runtime gets them; some hundred are enough.
    """
    if not observations:
        raise BadInput("int8 needs observations to take its ranges from; give --data")
    nncf = import_nncf()
    nncf.set_log_level(logging.ERROR)
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        small = nncf.quantize(
            onnx.ModelProto.FromString(model.SerializeToString()),
            nncf.Dataset(list(observations)),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(observations),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=True,
                # Half the range for weights: without VNNI, processors add two products of 8 bits
                # in 16, which overflow; both runtimes then answer otherwise than where they do not.
                overflow_fix=nncf.OverflowFix.ENABLE,
                activations_range_estimator_params=ranges,
            ),
            ignored_scope=nncf.IgnoredScope(patterns=list(_present(model)), validate=False),
        )
    onnx.checker.check_model(small)
    return small


def _present(model: onnx.ModelProto) -> Sequence[str]:
    heads = [pattern.removesuffix(".*") for pattern in FLOATING]
    return [f"{head}.*" for head in heads if any(n.name.startswith(head) for n in model.graph.node)]
