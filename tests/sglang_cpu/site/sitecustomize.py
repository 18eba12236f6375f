"""On PYTHONPATH only where SGLang's tests run on a CPU; a stand-in for the platform, not for us.

torchvision's published wheel is a CUDA build whose _C.so cannot load beside a CPU torch, so the two
operators that it registers fakes for are declared here before it is imported.

Importing SGLang takes thirteen seconds of a core, and each engine is three processes that do it. So
what asks for a process by `spawn` gets one by `fork`, with what is imported already. With
SGLANG_TESTS_START=spawn it is as everywhere else; conftest.py starts an engine that way, too.
"""

import multiprocessing.context as contexts
import os

import torch

_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

if os.environ.get("SGLANG_TESTS_START") != "spawn":
    contexts._concrete_contexts["spawn"] = contexts._concrete_contexts["fork"]
