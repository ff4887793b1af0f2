"""That the three engines are one to who uses them."""

import inspect

import pytest
import torch

from vsneuralstyle.engines.engine import ENGINES, Engine, select_engine
from vsneuralstyle.networks.net1 import Net1

OPERATIONS = {
    name: operation
    for name, operation in vars(Engine).items()
    if inspect.isfunction(operation) and not name.startswith("_")
}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_every_operation_with_its_arguments(engine):
    assert {"encode", "decode", "flow_features", "estimate_motion", "compose"} <= OPERATIONS.keys()
    for name, operation in OPERATIONS.items():
        expected, there = (
            [(one.name, one.default) for one in inspect.signature(function).parameters.values()]
            for function in (operation, getattr(engine, name))
        )
        assert there == expected, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engine_is_of_the_device_and_the_precision(dtype):
    net1 = Net1()
    engine = select_engine(net1, torch.device("cpu"), dtype)
    with torch.inference_mode():
        feature = engine.encode(torch.rand(1, 3, 32, 48))
    assert net1.mask[0].weight.dtype == feature.dtype == dtype
    assert net1.mask[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(engine.state_dtype, torch.dtype)
