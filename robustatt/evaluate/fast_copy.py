"""A faster copy of a model: BatchNorm folded into the convolutions, channels last, and by how much its logits differ."""

from __future__ import annotations

import copy

import torch
from torch import nn

from robustatt.evaluate.model_outputs import Standard, StandardModule

MAX_ERROR = 1e-3  # relative to the logits' scale; a larger difference is not rounding, and the copy is not used


def fast_copy(seen: Standard) -> tuple[nn.Module, torch.memory_format, float]:
    """A faster copy whose logits agree with the original's, its memory format, and the largest difference of a logit.

    The original itself where none agrees, and where the coarsest dtype that an image passes through is half precision or
    bfloat16, whose rounding is too coarse to tell.
    """
    original, expected = seen.module, seen.logits
    if torch.finfo(seen.dtype).eps > torch.finfo(torch.float32).eps:
        return original, torch.contiguous_format, 0.0
    with torch.no_grad():
        if not bool(expected.isfinite().all()):
            return original, torch.contiguous_format, 0.0
        scale = float(expected.abs().max()) + 1e-12
        for memory_format in (torch.channels_last, torch.contiguous_format):
            try:
                fast = fold_batchnorm(copy.deepcopy(original)).to(memory_format=memory_format)
                error = float((fast(seen.image.contiguous(memory_format=memory_format)) - expected).abs().max())
            except (RuntimeError, TypeError, ValueError):
                continue
            if error <= MAX_ERROR * scale:
                return fast, memory_format, max(error, 1e-7 * scale)
    return original, torch.contiguous_format, 0.0


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """The module, changed in place: each BatchNorm2d that only follows one convolution is folded into it.

    Pairs are found by symbolic tracing; a module that cannot be traced is returned as it is.
    """
    if isinstance(module, StandardModule):
        fold_batchnorm(module.module)
        return module
    try:
        graph = torch.fx.symbolic_trace(module).graph
    except Exception:  # tracing runs the model's own code on proxies, which may fail in any way
        return module
    parts = dict(module.named_modules())
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(parts.get(str(node.target)), nn.BatchNorm2d):
            continue
        before = node.args[0]
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        names = [str(before.target), str(node.target)]
        convolution, norm = parts.get(names[0]), parts[names[1]]
        alone = all(called.count(name) == 1 for name in names)
        hooked = any(part is not None and (part._forward_hooks or part._forward_pre_hooks) for part in (convolution, norm))
        if (
            isinstance(convolution, nn.Conv2d)
            and isinstance(norm, nn.BatchNorm2d)
            and alone
            and not hooked
            and norm.track_running_stats
            and not norm.training
        ):
            module.set_submodule(names[0], torch.nn.utils.fusion.fuse_conv_bn_eval(convolution, norm))
            module.set_submodule(names[1], nn.Identity())
    return module
