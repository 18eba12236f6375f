"""Pictures are decoded before a model is loaded; those that fail are all named, or left out."""

from __future__ import annotations

from pathlib import Path

import layouts
import pytest
from PIL import Image
from places import parquet

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import registry
from sectow_fast.data.suites.pictures import SuiteImages
from sectow_fast.data.suites.registry import SuiteSpec, open_suite
from sectow_fast.data.suites.wording import Wording
from sectow_fast.data.whole import unshowable
from sectow_fast.evaluation.asking import open_suites
from sectow_fast.types import UserError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def figstep(tmp_path) -> Path:
    layouts.WRITERS["figstep"](tmp_path / "figstep")
    return tmp_path / "figstep"


def spoil(folder: Path) -> list[Path]:
    """One picture cut short, one left by Git LFS as a pointer, and one that is none."""
    first, second, third = sorted((folder / "data/images/SafeBench").glob("*.png"))[-3:]
    first.write_bytes(first.read_bytes()[:60])
    second.write_bytes(LFS)
    third.write_text("no picture")
    return [first, second, third]


def opened(folder: Path, **more):
    return open_suites([f"figstep={folder}"], wording=Wording(), limit=0, seed=0, **more)


def test_all_pictures_that_cannot_be_shown_are_named_with_their_rows(figstep):
    whole = opened(figstep).cases["figstep"]
    spoilt = spoil(figstep)
    with pytest.raises(UserError) as caught:
        opened(figstep)
    first, *lines = str(caught.value).splitlines()
    assert f"found 3 of {len(whole)} pictures that cannot be shown" in first
    assert "--skip-broken" in first
    assert len(lines) == 3
    for path in spoilt:
        (line,) = [one for one in lines if str(path) in one]
        (case,) = [case for case in whole if case.images[0].endswith(path.name)]
        assert line.strip().startswith(case.where)
    assert sum("Git LFS pointer" in one for one in lines) == 1


def test_they_are_left_out_and_counted_where_that_is_asked_for(figstep):
    whole = opened(figstep).cases["figstep"]
    spoilt = spoil(figstep)
    spoilt[0].unlink()
    asked = opened(figstep, skip_broken=True)
    assert len(asked.cases["figstep"]) == len(whole) - 3
    count = len(whole)
    assert asked.notes[-1] == (
        f"figstep: 3 of {count} cases are left out, with 3 of {count} pictures that cannot be shown"
    )


def test_a_suite_without_a_sound_picture_is_refused_all_the_same(figstep):
    for path in (figstep / "data/images/SafeBench").glob("*.png"):
        path.write_bytes(LFS)
    with pytest.raises(UserError, match="cannot be shown"):
        opened(figstep, skip_broken=True)


class Counted(FolderImages):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.decoded: list[str] = []

    def open(self, key: str) -> Image.Image:
        self.decoded.append(key)
        return super().open(key)


def test_each_picture_is_decoded_once_and_again_only_where_it_changed(figstep):
    root = figstep / "data/images/SafeBench"
    keys = sorted(path.name for path in root.glob("*.png"))
    store = Counted(root)
    assert unshowable(store, keys * 2, title="a") == {}
    assert sorted(store.decoded) == keys
    again = Counted(root)
    Image.new("RGB", (9, 9)).save(root / keys[0])
    (root / keys[1]).write_bytes(LFS)
    assert list(unshowable(again, keys, title="a")) == [keys[1]]
    assert sorted(again.decoded) == keys[:2]
    # What was broken is looked at again, mended or not.
    third = Counted(root)
    assert list(unshowable(third, keys, title="a")) == [keys[1]]
    assert third.decoded == [keys[1]]


def test_without_a_place_to_remember_everything_is_decoded(figstep, monkeypatch):
    (figstep / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(figstep / "file"))
    root = figstep / "data/images/SafeBench"
    keys = sorted(path.name for path in root.glob("*.png"))[:2]
    for _ in range(2):
        store = Counted(root)
        assert unshowable(store, keys, title="a") == {} and sorted(store.decoded) == keys


def test_pictures_of_one_table_are_remembered_apart(figstep, tmp_path):
    data = next(figstep.rglob("*.png")).read_bytes()
    parquet(tmp_path / "a.parquet", [{"image": one} for one in (data, data[:60])])
    store = SuiteImages(tmp_path)
    whole, cut = (f"a.parquet#{row}#image" for row in range(2))
    assert unshowable(store, [whole], title="a") == {}
    assert list(unshowable(store, [whole, cut], title="a")) == [cut]
    assert list(unshowable(store, ["b.parquet#0#image"], title="a")) == ["b.parquet#0#image"]


def test_only_the_first_of_several_ranks_decodes(figstep, monkeypatch):
    suite = open_suite(SuiteSpec.parse(f"figstep={figstep}"))
    cases = suite.checked()
    told = []

    def decoded(*_, **__):
        raise AssertionError("a rank that is told decodes nothing")

    monkeypatch.setattr(registry, "unshowable", decoded)
    kept, _ = suite.whole(
        cases,
        skip_broken=True,
        told=lambda look: told.append(look) or {cases[0].images[0]: "broken"},
    )
    (look,) = told
    assert kept == cases[1:]
    with pytest.raises(AssertionError, match="decodes nothing"):
        look()  # what the first rank does
