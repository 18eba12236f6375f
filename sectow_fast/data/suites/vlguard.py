"""VLGuard (Zong et al., arXiv 2402.02207): pictures with instructions and safe replies, for SFT.

A safe picture has a safe and an unsafe instruction, an unsafe picture one unsafe instruction. A
blank response (17 as published) teaches nothing; its request is asked all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import layout, tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import Label, UserError

# Which instruction of a record -> (label, format).
KINDS: dict[str, tuple[Label, str]] = {
    "safe_instruction": ("harmless", "safe picture, safe words"),
    "unsafe_instruction": ("unsafe", "safe picture, unsafe words"),
    "instruction": ("unsafe", "unsafe picture"),
}
WHOLE = "safe picture, unsafe words"  # what is unsafe needs no picture


class VLGuard:
    info = SuiteInfo(
        name="vlguard",
        title="VLGuard",
        licence="MIT",
        splits=("test", "train"),
        plain=("test", "train"),
        layout="train.json, test.json and the pictures in train/ and test/",
        counts={"train": 2977, "test": 1558},
        trains_on="train",
    )

    def find(self, folder: Path) -> Path | None:
        return layout.root_with(folder, ("train.json", "test.json"))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        (path,) = layout.files(root, (f"{split}.json",))
        for number, row in enumerate(tables.json_file(path, list), start=1):
            where = f"{path} record {number}"
            pairs = row.get("instr-resp") if isinstance(row, dict) else None
            if not isinstance(pairs, list) or not pairs:
                raise UserError(
                    f"{where}: found no list 'instr-resp' with something in it, expected one"
                )
            picture = f"{split}/{tables.field(row, 'image', where)}"
            for pair in pairs:
                names = [name for name in KINDS if isinstance(pair, dict) and name in pair]
                if len(names) != 1:
                    raise UserError(
                        f"{where}: found {len(names)} instructions in a pair of 'instr-resp',"
                        f" expected one of {', '.join(KINDS)}"
                    )
                label, kind = KINDS[names[0]]
                words = tables.field(pair, names[0], where)
                reply = tables.optional(pair, "response")
                yield SuiteCase(
                    id=f"vlguard:{split}:{number}:{names[0]}",
                    suite="vlguard",
                    split=split,
                    label=label,
                    parts=(("image", picture), ("text", words)),
                    goal=words if label == "unsafe" else None,
                    words=words if kind == WHOLE else None,
                    category=tables.optional(row, "harmful_category") or "safe",
                    format=kind,
                    group=f"{split}/{row['image']}",
                    reply=reply if reply.strip() else None,
                    where=where,
                )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = VLGuard()
