"""Suites from the folders that users have: as downloaded, unpacked or cached; where links lead."""

from __future__ import annotations

import shutil
from functools import partial

import layouts
import pytest
from one_line import problem
from places import hub_cache, loaded, opened

from sectow_fast.data.images import FolderImages

# ---- where the folder begins


@pytest.mark.parametrize("name", layouts.WRITERS)
def test_the_hubs_cache_a_zip_of_github_and_the_folder_itself_are_the_same(toys, tmp_path, name):
    plain = loaded(name, toys / name)
    cache = hub_cache(toys / name, tmp_path / "hub" / f"datasets--them--{name}")
    shutil.copytree(toys / name, tmp_path / "unpacked" / f"{name}-main")
    places = (cache, cache / "snapshots" / "4f2a", tmp_path / "hub", tmp_path / "unpacked")
    for place in places:
        assert loaded(name, place) == plain


@pytest.mark.parametrize("name", ["figstep", "mm-safetybench", "mossbench"])
def test_the_data_folder_itself_will_do(toys, name):
    assert loaded(name, toys / name / "data") == loaded(name, toys / name)


def test_another_revision_of_the_cache_is_not_asked(toys, tmp_path):
    cache = hub_cache(toys / "xstest", tmp_path / "datasets--them--xstest")
    shutil.copytree(cache / "snapshots" / "4f2a", cache / "snapshots" / "0000", symlinks=True)
    assert loaded("xstest", cache) == loaded("xstest", toys / "xstest")
    (cache / "refs" / "main").unlink()
    assert "give the folder that is meant" in problem(lambda: opened("xstest", cache))


def test_two_copies_side_by_side_are_asked_about(toys, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(toys / "figstep", tmp_path / name)
    said = problem(lambda: opened("figstep", tmp_path))
    assert str(tmp_path / "one") in said and str(tmp_path / "two") in said


# ---- links


def test_a_link_to_anything_but_a_blob_is_refused_before_it_is_opened(toys, tmp_path):
    cache = hub_cache(toys / "figstep", tmp_path / "datasets--them--figstep")
    snapshot = cache / "snapshots" / "4f2a"
    picture = snapshot / "data/images/SafeBench/query_ForbidQI_1_1_6.png"
    layouts.picture(tmp_path / "secret.png")
    layouts.picture(cache / "blobs" / "deeper" / "x.png")
    layouts.picture(cache / "refs" / "x.png")
    for target in (tmp_path / "secret.png", cache / "refs/x.png", cache / "blobs/deeper/x.png"):
        picture.unlink()
        picture.symlink_to(target)
        suite = opened("figstep", cache)
        assert "found a path outside" in problem(suite.checked)
        (key,) = next(suite.cases()).images
        for read in (suite.images.open, suite.images.size, suite.images.file):
            assert "found a path outside" in problem(partial(read, key))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("figstep", "data/question/safebench.csv"),
        ("safebench", "category.csv"),
        ("safebench", "final_bench/text/1.csv"),
        ("mm-safetybench", "data/processed_questions/01-Illegal_Activitiy.json"),
        ("mossbench", "data/images_information/information.json"),
        ("vlguard", "test.json"),
        ("mmmu", "Fraud Miku/validation-00000-of-00001.parquet"),
    ],
)
def test_a_table_that_leads_out_is_refused(toys, tmp_path, name, file):
    shutil.copytree(toys / name, tmp_path / name)
    table = tmp_path / name / file
    table.rename(tmp_path / "secret")
    table.symlink_to(tmp_path / "secret")
    assert "found a path outside" in problem(opened(name, tmp_path / name).checked)


def test_a_blob_that_is_not_there_is_a_missing_picture(toys, tmp_path):
    cache = hub_cache(toys / "figstep", tmp_path / "datasets--them--figstep")
    picture = cache / "snapshots/4f2a/data/images/SafeBench/query_ForbidQI_1_1_6.png"
    picture.resolve().unlink()
    assert "1 of 20 pictures missing" in problem(opened("figstep", cache).checked)


def test_blobs_are_followed_from_a_snapshot_alone_and_only_where_they_lie_there(toys, tmp_path):
    # The same links, but in no snapshot.
    cache = hub_cache(toys / "figstep", tmp_path / "datasets--them--figstep")
    (cache / "snapshots").rename(cache / "copies")
    assert "found a path outside" in problem(opened("figstep", cache / "copies/4f2a").checked)
    # blobs/ itself leads away.
    (cache / "copies").rename(cache / "snapshots")
    (cache / "blobs").rename(tmp_path / "elsewhere")
    (cache / "blobs").symlink_to(tmp_path / "elsewhere")
    assert "found a path outside" in problem(opened("figstep", cache).checked)


def test_a_folder_that_leads_out_is_no_part_of_the_folder(tmp_path):
    layouts.picture(tmp_path / "secret" / "a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")
    images = FolderImages(tmp_path / "root")
    for call in (lambda: images.missing(["link/a.png"]), lambda: images.open("link/a.png")):
        assert "found a path outside" in problem(call)
