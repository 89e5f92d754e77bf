"""Functions of tensors recorded as CUDA graphs, so that hundreds of small kernels do not wait for Python one by one."""

from collections.abc import Callable

import torch
from torch import Tensor


class Recording:
    """What ``function(inputs)`` did with tensors, done again at each call with new inputs of the same shapes.

    All else that it reads stays what it was. It must not wait for the card, and its outputs, any structure of tensors,
    are overwritten by the next call. Raises RuntimeError for what cannot be recorded.
    """

    def __init__(self, function: Callable[[list[Tensor]], object], inputs: list[Tensor]):
        self.inputs, side = [x.detach().clone() for x in inputs], torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function(self.inputs)  # a library's first call on a stream prepares it
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=side):
            self.outputs = function(self.inputs)

    def __call__(self, inputs: list[Tensor]) -> object:
        for ours, theirs in zip(self.inputs, inputs, strict=True):
            ours.copy_(theirs)
        self.graph.replay()
        return self.outputs
