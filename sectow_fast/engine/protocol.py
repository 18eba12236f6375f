"""What every engine can do. Token ids in, token ids out; nothing is ever re-tokenised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from sectow_fast.types import Completion, Prompt, Sampling


class EngineCodec(Protocol):
    """The part of a codec that engines read."""

    @property
    def end_ids(self) -> Sequence[int]:
        """Tokens that end a reply; those of the model's generation configuration end it too."""
        ...

    @property
    def pad_id(self) -> int: ...

    @property
    def banned_ids(self) -> Sequence[int]:
        """Tokens that are never drawn; log-probs are taken without them."""
        ...

    def pixel_inputs(self, prompts: Sequence[Prompt]) -> Mapping[str, Any]:
        """The prompts' images as the model takes them: name -> tensor. Empty without images."""
        ...

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        """Begin to process the images of prompts that are asked for soon."""
        ...


class Stream(Protocol):
    """Samples that were asked for. Take all of them, or close the stream.

    `contextlib.closing(engine.submit(...))` closes it even where the consumer raises.
    """

    def each(self, *, wait: bool = True) -> Iterator[tuple[int, int, Completion]]:
        """(prompt number, sample number, completion) in the order in which they finish.

        The prompt number is the place in what was submitted, and not its entry in `numbers`. Each
        completion comes once. wait False: only those that are there now, without any drawing; a
        later call goes on.
        """
        ...

    def close(self) -> None:
        """Stop what is still open: it never comes. Closing twice, or at the end, does nothing."""
        ...


class Engine(Protocol):
    """Samples from one model.

    A draw depends on the weights, the prompt, `seed`, the prompt's number in the whole batch and
    the sample's number, and on nothing else. So prompts that are submitted one by one, with their
    `numbers`, give the same tokens as all of them together.
    """

    @property
    def model(self) -> Any:
        """The model that it was made with."""
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """Completions [prompts][n], in order.

        numbers: the prompts' numbers in the whole batch, where this is a part of one; otherwise a
        prompt's number is its place.
        """
        ...

    def submit(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> Stream:
        """The same completions as `generate`, to be taken as they finish. Returns at once.

        The weights must not change before the stream is at its end or closed.
        """
        ...

    def runs_beside(self, other: Engine) -> bool:
        """Whether both draw at the same time, so that streaming from one to the other pays."""
        ...

    def sync(self, model: Any) -> None:
        """Draw with `model`'s present weights from now on. ValueError: not the engine's model."""
        ...

    def sleep(self) -> None:
        """Give the device's memory back while training runs."""
        ...

    def wake(self) -> None:
        """Take the memory again. Drawing wakes a sleeping engine by itself."""
        ...

    def close(self) -> None:
        """End what the engine started."""
        ...
