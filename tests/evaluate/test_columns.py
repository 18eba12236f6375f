"""Columns that hold pictures, numbers and lists where the published tables have something else."""

from __future__ import annotations

import json
import shutil

import pyarrow
import pyarrow.parquet
from one_line import problem
from places import loaded, opened, parquet, table_of

from sectow_fast.data.suites.parquet_images import ParquetImages


def test_ids_that_are_numbers_and_categories_that_are_lists_are_text(toys, tmp_path):
    for name, file in (
        ("mmmu", "Fraud Miku/validation-00000-of-00001.parquet"),
        ("mmmu-pro", "standard (10 options)/test-00000-of-00001.parquet"),
    ):
        shutil.copytree(toys / name, tmp_path / name)
        path = tmp_path / name / file
        rows = pyarrow.parquet.read_table(path).to_pylist()
        # A letter that is not ASCII: its row is looked at field by field.
        parquet(path, [row | {"id": i, "question": "où?"} for i, row in enumerate(rows)])
        cases = [
            case for case in opened(name, tmp_path / name).checked() if str(path) in case.where
        ]
        assert [case.metadata["id"] for case in cases] == [str(i) for i in range(len(rows))]
        assert [case.group for case in cases] == [case.metadata["id"] for case in cases]
    shutil.copytree(toys / "vlguard", tmp_path / "vlguard")
    path = tmp_path / "vlguard" / "test.json"
    records = json.loads(path.read_text())
    for one in records:
        one["harmful_category"] = ["fraud", "où"]
    path.write_text(json.dumps(records))
    assert {case.category for case in loaded("vlguard", tmp_path / "vlguard")} == {
        "['fraud', 'où']"
    }


def test_bytes_come_before_paths_and_a_cell_may_hold_a_path_alone(toys, tmp_path):
    data = next((toys / "figstep").rglob("*.png")).read_bytes()
    rows = table_of(toys / "jailbreakv" / "JailBreakV_28K.csv")[:3]
    kept = rows[1]["image_path"]
    rows[0] |= {"image": {"bytes": data, "path": "there.png"}, "image_path": "elsewhere.png"}
    rows[1] |= {"image": {"bytes": None, "path": kept}, "image_path": None}
    rows[2] |= {"image": {"bytes": b"", "path": None}}
    base = tmp_path / "jailbreakv"
    shutil.copytree(toys / "jailbreakv", base)
    (base / "JailBreakV_28K.csv").unlink()
    parquet(base / "JailBreakV_28K.parquet", rows)
    keys = [case.images[0] for case in loaded("jailbreakv", base)]
    assert keys == ["JailBreakV_28K.parquet#0#image", kept, rows[2]["image_path"]]
    # No format but parquet has cells: a dictionary in a line is a path, or nothing.
    (base / "JailBreakV_28K.parquet").unlink()
    lines = [row | {"image": {"bytes": "iVBO", "path": kept}, "image_path": ""} for row in rows]
    (base / "JailBreakV_28K.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert {case.images[0] for case in loaded("jailbreakv", base)} == {kept}
    lines[1]["image"] = {"bytes": "iVBO", "path": None}
    (base / "JailBreakV_28K.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert "row 2: found no picture" in problem(opened("jailbreakv", base).checked)


def test_mmmu_takes_paths_as_pictures_and_no_empty_cells(toys, tmp_path):
    shutil.copytree(toys / "mmmu", tmp_path / "mmmu")
    path = tmp_path / "mmmu" / "Fraud Miku" / "validation-00000-of-00001.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    (tmp_path / "mmmu" / "a.png").write_bytes(rows[0]["image_1"]["bytes"])
    for row in rows:
        row["image_1"] = {"bytes": None, "path": "a.png"}
        row["image_2"] = {"bytes": None, "path": None}
        row["image_3"] = ""
    parquet(path, rows)
    cases = [case for case in opened("mmmu", tmp_path / "mmmu").checked() if "Miku" in case.where]
    assert {case.images for case in cases} == {("a.png",)}
    loaded("mmmu", tmp_path / "mmmu")
    rows = [{"id": "a", "options": "['x', 'y']", "answer": "A", "subject": "s", "image": "a.png"}]
    parquet(tmp_path / "pro" / "vision" / "test-0.parquet", rows)
    shutil.copyfile(tmp_path / "mmmu" / "a.png", tmp_path / "pro" / "a.png")
    (case,) = loaded("mmmu-pro", tmp_path / "pro", "vision")
    assert case.images == ("a.png",)
    (tmp_path / "pro" / "a.png").unlink()
    assert "1 of 1 pictures missing" in problem(
        opened("mmmu-pro", tmp_path / "pro", "vision").checked
    )


def test_columns_that_are_read_in_turn_are_read_once(toys, tmp_path, monkeypatch):
    data = next((toys / "figstep").rglob("*.png")).read_bytes()
    rows = [{"image_1": {"bytes": data}, "image_2": {"bytes": data}} for _ in range(6)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    reads, read = [], pyarrow.parquet.ParquetFile.read_row_group

    def counted(file, group, columns):
        reads.append((group, *columns))
        return read(file, group, columns=columns)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", counted)
    images = ParquetImages(tmp_path)
    for row in range(6):
        for column in ("image_1", "image_2"):
            assert images.open(f"a.parquet#{row}#{column}").mode == "RGB"
    assert reads == [(0, "image_1"), (0, "image_2"), (1, "image_1"), (1, "image_2")]


def test_mossbenchs_records_are_found_in_any_case(toys, tmp_path):
    shutil.copytree(toys / "mossbench", tmp_path / "mossbench")
    records = tmp_path / "mossbench/data/images_information/information.json"
    records.rename(records.with_name("Information.json"))
    plain = loaded("mossbench", toys / "mossbench")
    assert [c.id for c in loaded("mossbench", tmp_path / "mossbench")] == [c.id for c in plain]
