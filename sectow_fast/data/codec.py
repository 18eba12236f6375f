"""Between cases and token ids, by the model's own processor. Each picture is processed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sectow_fast.data.images import ImageStore
from sectow_fast.types import Case, Prompt, UserError

CACHED_TEXTS = 50_000
CACHED_PIXELS = 2**31  # bytes of processed pictures; those of real suites do not fit into memory


class ChatCodec:
    """`encode` cases, `decode` replies, and `pixel_inputs` of prompts.

    processor: a transformers processor with a chat template, `tokenizer` and `image_processor`.
    The ids of a sampled reply are never made from its text; `encode_reply` is for lessons only.
    """

    def __init__(self, processor: Any, images: ImageStore) -> None:
        self.processor, self.images = processor, images
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
        self._pixels: dict[str, dict[str, torch.Tensor]] = {}
        self._pixel_bytes = 0
        self._image_tokens: dict[tuple[int, int], int] = {}
        self._counts: dict[str, int] = {}

    def encode(self, cases: Sequence[Case]) -> list[Prompt]:
        """Token ids with image placeholders expanded, as the processor itself gives them."""
        self._tokenise(cases)
        prompts = []
        for case in cases:
            ids = self._texts[case.text, case.image is not None]
            if case.image is not None:
                self._process(case.image)
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
        for key in keys:
            self._process(key)
        names = self._pixels[keys[0]]
        inputs = {name: torch.cat([self._pixels[key][name] for key in keys]) for name in names}
        self._forget()
        return inputs

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

    def _forget(self) -> None:
        """Drop the pictures that were used longest ago, down to CACHED_PIXELS."""
        while self._pixel_bytes > CACHED_PIXELS and len(self._pixels) > 1:
            oldest = self._pixels.pop(next(iter(self._pixels)))
            self._pixel_bytes -= sum(value.nbytes for value in oldest.values())

    def _process(self, key: str) -> None:
        if key in self._pixels:
            self._pixels[key] = self._pixels.pop(key)  # now the latest used
            return
        image = self.images.open(key)
        if image.size not in self._image_tokens:
            # The processor itself says how many tokens a picture takes, once per picture size.
            whole = self.processor(text=[self._render("", True)], images=[image])
            ids = list(whole["input_ids"][0])
            self._image_tokens[image.size] = ids.count(self.image_id)
        self._counts[key] = self._image_tokens[image.size]
        self._pixels[key] = dict(
            self.processor.image_processor(images=[image], return_tensors="pt").items()
        )
        self._pixel_bytes += sum(value.nbytes for value in self._pixels[key].values())
