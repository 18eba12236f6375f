"""Between cases and token ids, by the model's own processor.

Prompts need only the number of a picture's tokens, which follows from its size, and the store tells
that without decoding the picture. Its pixels are processed where they are first asked for, by
threads, and kept up to a bound. So a rank processes the pictures of its own prompts alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image

from sectow_fast.config import Config
from sectow_fast.data.images import ImageStore
from sectow_fast.data.processor import expanded, shown, written
from sectow_fast.data.special import (
    UNTOLD,
    ModelTokens,
    PlainText,
    banned_ids,
    rendered,
    turn_end,
)
from sectow_fast.families import join_pixels
from sectow_fast.hashes import THREADS
from sectow_fast.types import Case, Part, Prompt, UserError

CACHED_TEXTS = 50_000
CACHED_PIXELS = 2**31  # bytes of processed pictures; those of real suites do not fit into memory
NO_TOKEN = -1  # what stands for a picture where a model sees none


def kept_pictures(config: Config) -> dict[str, Any]:
    """How a run's `ChatCodec` keeps pictures: half as large where they are computed in bfloat16."""
    whole = config.learn.dtype == "float32"
    return {
        "kept_bytes": int(config.learn.picture_gib * 2**30),
        "dtype": None if whole else getattr(torch, config.learn.dtype),
    }


class Written(NamedTuple):
    """What the text of a prompt depends on: its words, and what the processor writes for each of
    its pictures, () where that is one placeholder, repeated."""

    words: tuple[Part, ...]
    instead: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How a prompt shows pictures of one size. tokens: placeholders in all; text: what the
    processor writes; plain: that is one placeholder, repeated."""

    tokens: int
    text: str = ""
    plain: bool = True


class ChatCodec:
    """`encode` cases, `decode` replies, and `pixel_inputs` of prompts.

    processor: a transformers processor with a chat template, `tokenizer` and `image_processor`.
    tokens: what the model's folder says of its tokens, where there is a folder. A lesson ends with
    `eos_id`, the token that the template ends a turn with; any of `end_ids` ends a reply.
    kept_bytes: host memory for processed pictures; dtype: what their values are kept in, None for
    the processor's own. The ids of a sampled reply are never made from its text; `encode_reply` is
    for lessons only.
    """

    def __init__(
        self,
        processor: Any,
        images: ImageStore,
        *,
        tokens: ModelTokens = UNTOLD,
        kept_bytes: int = CACHED_PIXELS,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.processor, self.images = processor, images
        self.kept_bytes, self.dtype = kept_bytes, dtype
        self.tokenizer = tokenizer = processor.tokenizer
        if not getattr(processor, "chat_template", None):
            raise UserError(
                "model: found no chat template, expected one (chat_template.jinja beside the"
                " tokenizer); use an instruct model, or add its template to the folder"
            )
        self.text = PlainText(tokenizer)
        turn, text_end = turn_end(processor.apply_chat_template, self.text), tokenizer.eos_token_id
        ends = [one for one in (turn, text_end, *tokens.ends) if one is not None]
        if not ends:
            raise UserError(
                "model: found no token that ends a reply, expected eos_token in the tokenizer's"
                " configuration, or eos_token_id in generation_config.json"
            )
        self.eos_id, self.end_ids = ends[0], tuple(sorted(set(ends)))
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else pad
        # What the template writes for a picture is not always the token that a picture is made of.
        self.image_id, self._expanded = NO_TOKEN, ""
        self.sees = getattr(processor, "image_processor", None) is not None
        if self.sees:
            marker = tokenizer.convert_tokens_to_ids(processor.image_token)
            own = getattr(tokenizer, "image_token_id", None)
            self.image_id = next(i for i in (tokens.image_id, own, marker) if i is not None)
            self._expanded = expanded(processor, self.image_id, marker)
        stand_ins = {self.image_id, *tokens.placeholders} - {NO_TOKEN}
        self.banned_ids: tuple[int, ...] = banned_ids(processor, stand_ins, self.end_ids)
        self._texts: dict[Written, tuple[int, ...]] = {}
        self._pixels: dict[str, Future[dict[str, torch.Tensor]]] = {}
        self._shown: dict[tuple[int, int], Shown] = {}
        self._pictures: dict[str, Shown] = {}
        self._lock = threading.Lock()
        self._grown = False  # whether a picture came since the bound was last looked at
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")

    def encode(self, cases: Sequence[Case]) -> list[Prompt]:
        """Token ids with image placeholders expanded, as the processor itself gives them.

        UserError: a picture for a model of words alone.
        """
        shows = next((case for case in cases if case.images), None)
        if shows is not None and not self.sees:
            raise UserError(
                f"case {shows.id!r}: found a picture, expected words: the model sees none"
            )
        keys = dict.fromkeys(key for case in cases for key in case.images)
        new = [key for key in keys if key not in self._pictures]
        found = self._threads.map(lambda key: self._as_shown(self.images.size(key)), new)
        self._pictures |= dict(zip(new, found, strict=True))
        self._tokenise(cases)
        prompts = []
        for case in cases:
            asked = self._written(case)
            ids = self._texts[asked]
            if case.images and not asked.instead:
                left = iter([self._pictures[key] for key in case.images])
                ids = tuple(
                    one
                    for i in ids
                    for one in ([i] * next(left).tokens if i == self.image_id else (i,))
                )
            prompts.append(Prompt(case_id=case.id, ids=ids, images=case.images))
        return prompts

    def encode_reply(self, text: str) -> tuple[int, ...]:
        """A lesson's reply, ended by the end token."""
        (ids,) = self.text.rows([self.text.hide(text)])
        return (*ids, self.eos_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The words of a reply, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def pixel_inputs(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """The model's image inputs, in the prompts' order; empty where none has an image."""
        keys = [key for prompt in prompts for key in prompt.images]
        if not keys:
            return {}
        begun = [self._begun(key) for key in keys]
        found = [one.result() for one in begun]
        self._forget()
        return join_pixels(found)

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        """Begin to process the images of prompts that are asked for soon; a few at a time, since
        what is over the bound is forgotten again."""
        for key in dict.fromkeys(key for p in prompts for key in p.images):
            self._begun(key)

    def image_tokens(self, size: tuple[int, int]) -> int:
        """How many tokens a picture of (width, height) pixels takes, as the processor says."""
        return self._as_shown(size).tokens

    def _as_shown(self, size: tuple[int, int]) -> Shown:
        if size not in self._shown:
            pictures = self.processor.image_processor
            if hasattr(pictures, "merge_size"):  # a Qwen-VL's, which counts patches by size
                patches = pictures.get_number_of_image_patches(*size[::-1], {})
                made = Shown(tokens=patches // pictures.merge_size**2)
            else:  # it can only be asked with a picture
                _, text = shown(self.processor, Image.new("RGB", size))
                with self._lock:  # a tokenizer does not take two threads
                    ids, alone = self.text.rows([text, self._expanded])
                tokens = ids.count(self.image_id)
                at = alone.index(self.image_id)
                one_run = [*alone[:at], *[self.image_id] * tokens, *alone[at + 1 :]]
                made = Shown(tokens=tokens, text=text, plain=ids == one_run)
            self._shown[size] = made
        return self._shown[size]

    def most_image_tokens(self) -> int:
        """The most tokens that a picture of any size takes. A processor that does not say it is
        asked with pictures of several shapes."""
        pictures = self.processor.image_processor
        if hasattr(pictures, "merge_size"):  # a Qwen-VL's, whose edges are numbers of pixels
            edge = pictures.patch_size * pictures.merge_size
            return pictures.size["longest_edge"] // edge**2
        if self._as_shown((64, 64)) == self._as_shown((640, 64)):  # scaled to one size
            return self.image_tokens((64, 64))
        edges = range(512, 2049, 256)  # 4:3, 3:2 and 5:2 take more tiles than 1:1, 2:1 and 4:1
        return max(self.image_tokens((w, h)) for w in edges for h in edges)

    def _tokenise(self, cases: Sequence[Case]) -> None:
        if len(self._texts) > CACHED_TEXTS:
            self._texts.clear()
        # Messages name the case, never its words: those of real suites are not for the console.
        names = {self._written(case): case.id for case in cases}
        # Not a set difference, which would walk all keys of the dict at every step.
        wanted = sorted(one for one in names if one not in self._texts)
        if not wanted:
            return
        texts = [self._filled(one) for one in wanted]
        unknown = self.tokenizer.unk_token_id
        special = set(self.text.special.values())
        for one, text, ids in zip(wanted, texts, self.text.rows(texts), strict=True):
            open_ones = self.text.marks(text)
            if unknown is not None and ids.count(unknown) > open_ones.count(unknown):
                raise UserError(
                    f"model: its tokenizer does not know a word of case {names[one]!r};"
                    " it was made for another world (another seed?): use the one it was made with"
                )
            pictures = sum(kind == "image" for kind, _ in one.words)
            expected = sum(map(self._placeholders, one.instead)) if one.instead else pictures
            found = ids.count(self.image_id)
            if found != expected or [i for i in ids if i in special] != open_ones:
                raise UserError(
                    f"case {names[one]!r}: found {found} placeholders of the {expected} of its"
                    f" {pictures} pictures, or special tokens that its chat template did"
                    " not write; expected words, which"
                    " this tokenizer cannot keep apart from its special tokens; take them out"
                )
            self._texts[one] = tuple(ids)

    def _written(self, case: Case) -> Written:
        words = tuple((kind, value if kind == "text" else "") for kind, value in case.layout)
        found = [self._pictures[key] for key in case.images]
        plain = all(one.plain for one in found)
        return Written(words, () if plain else tuple(one.text for one in found))

    def _filled(self, one: Written) -> str:
        """The template's text: a placeholder for each picture, or all that the processor writes."""
        text = rendered(self.processor, self.text, one.words)
        if not one.instead:
            return text.replace(self.processor.image_token, self._expanded) if self.sees else text
        return written(self.processor, text, one.instead)

    def _placeholders(self, text: str) -> int:
        return text.count(self.tokenizer.convert_ids_to_tokens(self.image_id))

    def _begun(self, key: str) -> Future[dict[str, torch.Tensor]]:
        """A picture that is processed or will be; it is now the latest used."""
        with self._lock:
            found = self._pixels.pop(key, None)
            if found is None:
                found, self._grown = self._threads.submit(self._process, key), True
            self._pixels[key] = found
        return found

    def _process(self, key: str) -> dict[str, torch.Tensor]:
        pictures, picture = self.processor.image_processor, self.images.open(key)
        if hasattr(pictures, "merge_size"):  # a Qwen-VL's, which needs no text beside
            made = pictures(images=[picture], return_tensors="pt")
        else:
            made, _ = shown(self.processor, picture)
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
