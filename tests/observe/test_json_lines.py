"""Files of a JSON object a line, whatever happens to the run or to the file."""

import os

import pytest

from mpitrain.observe.json_lines import JsonLines, read_json_lines


def test_what_stood_there_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "lines.jsonl"
    first = JsonLines(path, [{"step": 1}])
    first.write({"step": 2})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 3')  # it died here
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]

    def full(source, destination):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            JsonLines(path, [{"step": 1}])
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]
    JsonLines(path, [{"step": 1}]).close()
    assert path.read_text() == '{"step": 1}\n'


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

    lines = JsonLines(tmp_path / "lines.jsonl", [])
    lines.close()
    lines._file = Full()
    with pytest.raises(OSError, match=r"No space left on device: '.*lines\.jsonl'"):
        lines.write({"step": 1})


@pytest.mark.parametrize("damage", [b"\0" * 9, b"[1, 2]", b"3", b'{"step": '])
def test_a_damaged_line_is_named(tmp_path, damage):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b"\n")
    with pytest.raises(ValueError, match=r"lines\.jsonl, line 2 is no JSON object .*; remove the line"):
        read_json_lines(path)
