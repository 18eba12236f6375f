"""On PYTHONPATH only where SGLang's tests run on a CPU; a stand-in for the platform, not for us.

torchvision's published wheel is a CUDA build whose _C.so cannot load beside a CPU torch, so the two
operators that it registers fakes for are declared here before it is imported.
"""

import torch

_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
