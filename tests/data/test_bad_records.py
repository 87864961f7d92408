"""The list of what cannot be used."""

import json
import threading

import pytest

from keras_muse.data import BadRecord, BadRecords, TooManyBadRecords


def test_without_a_file_the_first_one_is_raised():
    with pytest.raises(BadRecord, match="a.png: no caption"):
        BadRecords(None, 10, 1.0).add(BadRecord("a.png", "no caption"))


def test_each_is_listed_once_and_remembered(tmp_path):
    path = tmp_path / "run" / "bad.jsonl"
    bad = BadRecords(path, 10, 0.5)
    for key in ("a", "b", "a"):
        bad.add(BadRecord(key, f"reason {key}"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [
        {"key": "a", "reason": "reason a"},
        {"key": "b", "reason": "reason b"},
    ]
    again = BadRecords(path, 10, 0.5)
    assert len(again) == 2 and "a" in again and "c" not in again


def test_too_many(tmp_path):
    path = tmp_path / "bad.jsonl"
    bad = BadRecords(path, 20, 0.1)
    bad.add(BadRecord("a", "x"))
    bad.add(BadRecord("b", "x"))
    with pytest.raises(TooManyBadRecords) as error:
        bad.add(BadRecord("c", "no caption"))
    assert "3 of 20 records cannot be used" in str(error.value)
    assert "0.1 that `max_bad_fraction` allows" in str(error.value)
    assert "bad.jsonl" in str(error.value) and "'c': no caption" in str(error.value)
    # Nor does it begin again.
    with pytest.raises(TooManyBadRecords):
        BadRecords(path, 20, 0.1)


def test_if_all_are_bad_there_is_nothing_to_read(tmp_path):
    bad = BadRecords(tmp_path / "bad.jsonl", 2, 1.0)
    bad.add(BadRecord("a", "x"))
    with pytest.raises(TooManyBadRecords, match="2 of 2 records"):
        bad.add(BadRecord("b", "x"))


def test_a_line_that_was_cut_off_is_written_again(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"key": "a", "reason": "x"}\n{"key": "b", "rea')
    bad = BadRecords(path, 10, 1.0)
    assert "a" in bad and "b" not in bad
    bad.add(BadRecord("b", "y"))
    assert BadRecords(path, 10, 1.0).reasons == {"a": "x", "b": "y"}


def test_another_file(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("no JSON\n{}\n")
    with pytest.raises(ValueError, match="received 'no JSON\\\\n' in line 1"):
        BadRecords(path, 10)
    with pytest.raises(ValueError, match="`max_bad_fraction` must lie in .0, 1.: rec"):
        BadRecords(path, 10, 1.5)


def test_many_threads(tmp_path):
    bad = BadRecords(tmp_path / "bad.jsonl", 100, 1.0)
    threads = [
        threading.Thread(
            target=lambda: [bad.add(BadRecord(str(n), "x")) for n in range(30)]
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 30
