"""Write the weights of a student into its graph as what they are made of: the teacher's, and the changes of low rank.

The graph is traced from the merged network, so it is that of the teacher. Then every merged matrix makes way for
W + up down, three tensors that lie in the files of teacher and student; a runtime computes it once, when it opens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["Made", "layers_of", "merge_changes", "restore_factors"]

Made = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Name of a layer -> its W as it is stored, up and down, all fp32."""


def layers_of(student: nn.Module) -> Made:
    """What the changed layers of a student are made of."""
    found = {}
    for name, module in student.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            parts: Any = module.get_submodule("parametrizations.weight")
            base, up, down = (t.detach().float().numpy() for t in (parts.original, parts[0].up, parts[0].down))
            found[name] = base, up, down
    return found


def merge_changes(student: nn.Module) -> nn.Module:
    """The same network with plain weights; in place."""
    for module in list(student.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            module.weight.requires_grad_(False)
    return student


def restore_factors(model: onnx.ModelProto, made: Made) -> int:
    """Replace each merged matrix of a graph, recognised by its bytes, by W + up down; in place. Answers how many."""
    index = {}
    for parts in made.values():
        base, up, down = (torch.from_numpy(part) for part in parts)
        whole = base + (up @ down).view_as(base)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            index[_bytes(whole.to(dtype))] = (parts, False)
            if whole.ndim == 2:
                index.setdefault(_bytes(whole.T.to(dtype)), (parts, True))
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        parts, turned = index.get(numpy_helper.to_array(tensor).tobytes(), (None, False))
        if parts is None:
            kept.append(tensor)
            continue
        name, (base, up, down) = tensor.name, parts
        kept += [numpy_helper.from_array(a, f"{name}.{n}") for a, n in ((base, "base"), (up, "up"), (down, "down"))]
        kept.append(numpy_helper.from_array(np.array(base.shape, np.int64), f"{name}.shape"))
        chain = [("MatMul", [f"{name}.up", f"{name}.down"], "flat"), ("Reshape", [f"{name}.flat", f"{name}.shape"], "change"),
                 ("Add", [f"{name}.base", f"{name}.change"], "whole")]  # fmt: skip
        made_nodes = [helper.make_node(op, given, [f"{name}.{out}"], name=f"{op}.{name}") for op, given, out in chain]
        if tensor.data_type != onnx.TensorProto.FLOAT:
            made_nodes.append(
                helper.make_node("Cast", [f"{name}.whole"], [f"{name}.cast"], f"Cast.{name}", to=tensor.data_type)
            )
        if turned:
            made_nodes.append(
                helper.make_node("Transpose", [made_nodes[-1].output[0]], [f"{name}.turn"], f"Turn.{name}", perm=[1, 0])
            )
        made_nodes[-1].output[0] = name
        nodes += made_nodes
    others = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes + others)
    return len(nodes)


def _bytes(weight: torch.Tensor) -> bytes:
    """As a graph has it; numpy knows no bfloat16."""
    plain = weight.contiguous()
    return (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy().tobytes()
