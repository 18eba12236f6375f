"""Between cases and token ids, by the model's own processor.

Prompts need only the number of a picture's tokens, which follows from its size, for which the
picture is opened once. Its pixels are processed where they are first asked for, by threads, and
kept up to a bound. So a rank processes the pictures of its own prompts alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image

from sectow_fast.config import Config
from sectow_fast.data.images import ImageStore
from sectow_fast.types import Case, Prompt, UserError

CACHED_TEXTS = 50_000
CACHED_PIXELS = 2**31  # bytes of processed pictures; those of real suites do not fit into memory
THREADS = min(8, os.cpu_count() or 1)


def kept_pictures(config: Config) -> dict[str, Any]:
    """How a run's `ChatCodec` keeps pictures: half as large where they are computed in bfloat16."""
    whole = config.learn.dtype == "float32"
    return {
        "kept_bytes": int(config.learn.picture_gib * 2**30),
        "dtype": None if whole else getattr(torch, config.learn.dtype),
    }


class ChatCodec:
    """`encode` cases, `decode` replies, and `pixel_inputs` of prompts.

    processor: a transformers processor with a chat template, `tokenizer` and `image_processor`.
    kept_bytes: host memory for processed pictures; dtype: what their values are kept in, None for
    the processor's own. The ids of a sampled reply are never made from its text; `encode_reply` is
    for lessons only.
    """

    def __init__(
        self,
        processor: Any,
        images: ImageStore,
        *,
        kept_bytes: int = CACHED_PIXELS,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.processor, self.images = processor, images
        self.kept_bytes, self.dtype = kept_bytes, dtype
        self.tokenizer = processor.tokenizer
        if not getattr(processor, "chat_template", None):
            raise UserError(
                "model: found no chat template, expected one (chat_template.jinja beside the"
                " tokenizer); use an instruct model, or add its template to the folder"
            )
        self.eos_id: int = self.tokenizer.eos_token_id
        self.pad_id: int = self.tokenizer.pad_token_id
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(processor.image_token)
        banned = {self.pad_id, self.image_id, self.tokenizer.unk_token_id} - {None}
        self.banned_ids: tuple[int, ...] = tuple(sorted(banned))
        self._texts: dict[tuple[str, bool], tuple[int, ...]] = {}
        self._pixels: dict[str, Future[dict[str, torch.Tensor]]] = {}
        self._image_tokens: dict[tuple[int, int], int] = {}
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._grown = False  # whether a picture came since the bound was last looked at
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")

    def encode(self, cases: Sequence[Case]) -> list[Prompt]:
        """Token ids with image placeholders expanded, as the processor itself gives them."""
        self._tokenise(cases)
        shown = dict.fromkeys(case.image for case in cases if case.image is not None)
        new = [key for key in shown if key not in self._counts]
        counts = self._threads.map(lambda key: self.image_tokens(self.images.open(key).size), new)
        self._counts |= dict(zip(new, counts, strict=True))
        prompts = []
        for case in cases:
            ids = self._texts[case.text, case.image is not None]
            if case.image is not None:
                at, count = ids.index(self.image_id), self._counts[case.image]
                ids = (*ids[:at], *[self.image_id] * count, *ids[at + 1 :])
            prompts.append(Prompt(case_id=case.id, ids=ids, image=case.image))
        return prompts

    def encode_reply(self, text: str) -> tuple[int, ...]:
        """A lesson's reply, ended by the end token."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*ids, self.eos_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The words of a reply, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def pixel_inputs(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """The model's image inputs, in the prompts' order; empty where none has an image."""
        keys = [prompt.image for prompt in prompts if prompt.image is not None]
        if not keys:
            return {}
        begun = [self._begun(key) for key in keys]
        found = [one.result() for one in begun]
        self._forget()
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        """Begin to process the images of prompts that are asked for soon; a few at a time, since
        what is over the bound is forgotten again."""
        for key in dict.fromkeys(p.image for p in prompts if p.image is not None):
            self._begun(key)

    def image_tokens(self, size: tuple[int, int]) -> int:
        """How many tokens a picture of (width, height) pixels takes, as the processor says."""
        if size not in self._image_tokens:
            pictures = self.processor.image_processor
            if hasattr(pictures, "merge_size"):  # a Qwen-VL's, which counts patches by size
                patches = pictures.get_number_of_image_patches(*size[::-1], {})
                tokens = patches // pictures.merge_size**2
            else:  # it can only be asked with a picture
                blank = Image.new("RGB", size)
                with self._lock:  # a tokenizer does not take two threads
                    whole = self.processor(text=[self._render("", True)], images=[blank])
                tokens = list(whole["input_ids"][0]).count(self.image_id)
            self._image_tokens[size] = tokens
        return self._image_tokens[size]

    def most_image_tokens(self) -> int:
        """The most tokens that a picture of any size takes."""
        pictures = self.processor.image_processor
        if hasattr(pictures, "merge_size"):  # a Qwen-VL's, whose edges are numbers of pixels
            edge = pictures.patch_size * pictures.merge_size
            return pictures.size["longest_edge"] // edge**2
        return self.image_tokens((64, 64))  # every picture is scaled to one size

    def _render(self, text: str, has_image: bool) -> str:
        content = [{"type": "image"}] if has_image else []
        content.append({"type": "text", "text": text})
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def _tokenise(self, cases: Sequence[Case]) -> None:
        if len(self._texts) > CACHED_TEXTS:
            self._texts.clear()
        asked = {(case.text, case.image is not None) for case in cases}
        # Not a set difference, which would walk all keys of the dict at every step.
        new = [one for one in asked if one not in self._texts]
        if not new:
            return
        wanted = sorted(new)
        # Messages name the case, never its words: those of real suites are not for the console.
        names = {(case.text, case.image is not None): case.id for case in cases}
        rows = self.tokenizer([self._render(*one) for one in wanted], add_special_tokens=False)[
            "input_ids"
        ]
        unknown = self.tokenizer.unk_token_id
        for one, ids in zip(wanted, rows, strict=True):
            if unknown is not None and unknown in ids:
                raise UserError(
                    f"model: its tokenizer does not know a word of case {names[one]!r};"
                    " it was made for another world (another seed?): use the one it was made with"
                )
            if ids.count(self.image_id) != one[1]:
                raise UserError(
                    f"case {names[one]!r}: found the image placeholder"
                    f" {self.processor.image_token} in it, expected words only; take it out"
                )
            self._texts[one] = tuple(ids)

    def _begun(self, key: str) -> Future[dict[str, torch.Tensor]]:
        """A picture that is processed or will be; it is now the latest used."""
        with self._lock:
            found = self._pixels.pop(key, None)
            if found is None:
                found, self._grown = self._threads.submit(self._process, key), True
            self._pixels[key] = found
        return found

    def _process(self, key: str) -> dict[str, torch.Tensor]:
        made = self.processor.image_processor(images=[self.images.open(key)], return_tensors="pt")
        return {
            name: value.to(self.dtype) if self.dtype and value.is_floating_point() else value
            for name, value in made.items()
        }

    def _forget(self) -> None:
        """Drop the pictures that were used longest ago, down to the bound."""
        with self._lock:
            if not self._grown:
                return
            self._grown = any(not one.done() for one in self._pixels.values())
            done = {key: one for key, one in self._pixels.items() if one.done()}
            sizes = {
                key: 0 if one.exception() else sum(v.nbytes for v in one.result().values())
                for key, one in done.items()
            }
            over = sum(sizes.values()) - self.kept_bytes
            for key, size in list(sizes.items())[:-1]:
                if over <= 0:
                    return
                del self._pixels[key]
                over -= size
