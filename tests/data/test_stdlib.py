"""The standard library as text: the same every time, whole, and its two parts apart."""

import sysconfig
from pathlib import Path

import pytest

from mpitrain.data import stdlib_files, stdlib_tokens


def test_files_are_the_librarys_own():
    root = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(root).as_posix() for path in stdlib_files()]
    assert len(set(names)) == len(names)
    assert {"argparse.py", "json/decoder.py", "threading.py"} <= set(names)
    assert not [name for name in names if "site-packages" in name or name.startswith(("test/", "encodings/", "_sysconfigdata"))]


def test_no_file_is_in_both_parts_and_none_is_lost():
    train, validation = (part.tobytes() for part in stdlib_tokens())
    files = [path.read_bytes() for path in stdlib_files()]
    assert len(train) + len(validation) == sum(map(len, files))
    assert 0.01 < len(validation) / len(train) < 0.2
    assert all((data in train) != (data in validation) for data in files if len(data) > 10_000)


def test_a_limit_keeps_the_first_bytes():
    train, validation = stdlib_tokens()
    short_train, short_validation = stdlib_tokens(1_000_000)
    assert len(short_train) + len(short_validation) == 1_000_000
    assert train.tobytes().startswith(short_train.tobytes())
    assert validation.tobytes().startswith(short_validation.tobytes())


def test_the_order_follows_from_names_alone(tmp_path):
    for folder in ("one", "two"):
        for number in range(50):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"m{number}.py").write_text(f"# {folder}")
    one, two = ([path.name for path in stdlib_files(tmp_path / folder)] for folder in ("one", "two"))
    assert one == two
    assert one != sorted(one)


def test_no_files_is_an_error(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_x.py").write_text("pass")
    with pytest.raises(ValueError, match=r"no Python source files under .*; expected the standard library's: install it"):
        stdlib_files(tmp_path)


def test_a_limit_that_leaves_a_part_empty_is_an_error():
    with pytest.raises(ValueError, match="expected some of both: raise the limit"):
        stdlib_tokens(10)
