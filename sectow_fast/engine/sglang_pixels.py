"""A prompt's pixels on their way from the host to SGLang's scheduler: one copy for all samples.

Like `sglang_host.py` it imports neither torch nor sglang before it is used.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def shared_images(pixels: dict[str, tuple], n: int) -> list[dict[str, Any]]:
    """A prompt's processor output for each of its n requests, with one copy of the pixels.

    SGLang copies pixels into a shared memory segment of every request, which the scheduler unlinks
    when it has opened it, and it hashes them every time. Here they are hashed and copied once; the
    requests get one name each (a hard link) of the same segment. Where that cannot be done, as with
    a full /dev/shm or another SGLang, each request gets the tensors and SGLang does what it does.
    """
    import torch
    from sglang.srt.managers import mm_utils

    tensors = {
        name: torch.from_numpy(data).view(getattr(torch, dtype)).view(shape)
        for name, (dtype, shape, data) in pixels.items()
    }
    plain = {"format": "processor_output", **tensors}
    if n == 1:
        return [plain]
    folder = "/dev/shm/"
    images: list[dict[str, Any]] = []
    try:
        values = tensors["pixel_values"]
        number = mm_utils.hash_feature(values)
        pointer = mm_utils.ShmPointerMMData
        first = pointer(values, precomputed_hash=number)
        for i in range(n):
            one = first
            if i:
                one = pointer.__new__(pointer)
                one.__dict__ |= first.__dict__ | {"shm_name": mm_utils.make_shm_name("mm")}
                os.link(folder + first.shm_name, folder + one.shm_name)
            images.append(plain | {"pixel_values": one, "hash": number})
    except (OSError, AttributeError, TypeError, KeyError) as error:  # full, or another SGLang
        print(f"pixels are copied for every request: {error}", file=sys.stderr, flush=True)
        for image in images:
            image["pixel_values"].close_and_unlink()
        return [plain] * n
    return images
