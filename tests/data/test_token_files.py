"""Token files against arrays that NumPy wrote, and every way in which such a file can be wrong."""

import numpy as np
import pytest

from mpitrain.data import byte_tokens, llmc_tokens, nanogpt_tokens, npy_tokens

TOKENS = np.array([7, 0, 50256, 12, 300])


def llmc_file(path, *, magic=20240520, version=1, count=5, dtype="<u2"):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, count
    path.write_bytes(header.tobytes() + TOKENS.astype(dtype).tobytes())
    return path


def test_bytes_of_files_are_joined(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(path.name.encode() + b"\xff\n")
    tokens = byte_tokens(*paths)
    assert tokens.tobytes() == b"a\xff\nb\xff\n"
    assert tokens.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_npy(tmp_path, dtype):
    np.save(tmp_path / "x.npy", TOKENS.astype(dtype))
    tokens = npy_tokens(tmp_path / "x.npy")
    assert isinstance(tokens, np.memmap)
    np.testing.assert_array_equal(tokens, TOKENS)


def test_nanogpt(tmp_path):
    TOKENS.astype("<u2").tofile(tmp_path / "x.bin")
    np.testing.assert_array_equal(nanogpt_tokens(tmp_path / "x.bin"), TOKENS)


@pytest.mark.parametrize("format", [{}, {"magic": 20240801, "version": 7, "dtype": "<u4"}])
def test_llmc(tmp_path, format):
    tokens = llmc_tokens(llmc_file(tmp_path / "x.bin", **format))
    np.testing.assert_array_equal(tokens, TOKENS)
    assert tokens.dtype == format.get("dtype", "<u2")


@pytest.mark.parametrize("read", [byte_tokens, npy_tokens, nanogpt_tokens, llmc_tokens])
def test_an_empty_file_is_an_error(tmp_path, read):
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match=r"x is (empty|no whole .npy file).*; expected .*: "):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    ("read", "contents", "message"),
    [
        (nanogpt_tokens, b"abc", "has 3 bytes; expected an even number"),
        (llmc_tokens, b"x" * 1023, "has 1023 bytes; expected 1024 of header"),
        (npy_tokens, b"x" * 200, "no whole .npy file"),
    ],
)
def test_a_file_of_another_format_is_an_error(tmp_path, read, contents, message):
    (tmp_path / "x").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"magic": 20240522}, "magic 20240522 and version 1; expected 20240520 and 1 .uint16. or 20240801 and 7 .uint32."),
        ({"version": 7}, "magic 20240520 and version 7; expected"),
        ({"count": 6}, "has 1034 bytes and its header promises 6 tokens; expected at least one and 1036 bytes"),
        ({"count": 4}, "promises 4 tokens; expected at least one and 1032 bytes"),
        ({"count": 0}, "promises 0 tokens; expected at least one"),
        ({"count": -1}, "promises -1 tokens"),
    ],
)
def test_a_wrong_llmc_header_is_an_error(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        llmc_tokens(llmc_file(tmp_path / "x.bin", **wrong))


def test_an_llmc_file_is_not_taken_for_nanogpts(tmp_path):
    with pytest.raises(ValueError, match=r"begins with llm.c's magic; expected bare uint16 tokens"):
        nanogpt_tokens(llmc_file(tmp_path / "x.bin"))


@pytest.mark.parametrize("array", [TOKENS[None], TOKENS * 0.5])
def test_npy_tokens_are_integers_in_one_dim(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match="expected integers in one dim"):
        npy_tokens(tmp_path / "x.npy")
