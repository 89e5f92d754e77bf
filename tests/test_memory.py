"""Memory that a step will take, counted before it is run."""

import pytest
import tiny
import torch

from helpers import memory
from helpers.generators import StyleGAN1, StyleGAN2
from helpers.memory import NotEnoughMemory, check_memory, step_memory

SIZE = {"z_dim": 32, "w_dim": 32, "mapping_layers": 1, "channel_base": 2048, "channel_max": 32}


def generator(family=StyleGAN2, resolution=256, dtype=torch.float32, checkpointing=False):
    with torch.random.fork_rng():
        made = family(resolution, **SIZE).eval().requires_grad_(False)
    made.dtype, made.checkpointing = dtype, checkpointing
    return made


def kept_bytes(made, batch):
    """What autograd really keeps of a forward pass, on the CPU."""
    kept, own = {}, {p.untyped_storage().data_ptr() for p in [*made.parameters(), *made.buffers()]}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    code = torch.zeros(batch, *made.code_shape("w+"), requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made.synthesize(code)
    return sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in own)


@pytest.mark.parametrize("family", [StyleGAN1, StyleGAN2])
def test_the_estimate_is_what_autograd_keeps(family):
    made = generator(family)
    more = (step_memory(made, batch=2) - step_memory(made, batch=1)) * 2**30 - memory.FEATURES * 3 * 256**2
    assert more / memory.OVERHEAD == pytest.approx(kept_bytes(made, 2) - kept_bytes(made, 1), rel=0.1)


def test_more_of_everything_needs_more():
    plain = step_memory(generator())
    assert step_memory(generator(resolution=512)) > plain
    assert step_memory(generator(), batch=4) > 2 * (plain - memory.FIXED)
    assert step_memory(generator(), noise=True) > plain
    assert step_memory(generator(dtype=torch.bfloat16)) < plain
    assert step_memory(generator(checkpointing=True)) < plain


def test_a_run_that_will_not_fit_is_one_sentence(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 0.1)
    with pytest.raises(NotEnoughMemory) as error:
        check_memory(generator())
    assert str(error.value).startswith("256² w+ needs about 0.") and "\n" not in str(error.value)
    assert str(error.value).endswith("0.1 GB are free: use --precision bf16 or --checkpointing.")
    with pytest.raises(NotEnoughMemory, match="4 photos at once .*: use a smaller --batch.$"):
        check_memory(generator(dtype=torch.bfloat16, checkpointing=True), batch=4)
    monkeypatch.setattr(memory, "free_memory", lambda device: 100)
    check_memory(generator())


def test_small_generators_are_not_counted(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: pytest.fail("counted"))
    check_memory(tiny.stylegan2())
