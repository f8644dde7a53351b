"""Text files are UTF-8, whatever the locale; one that is not is an error that names the file and the line."""

from __future__ import annotations

from pathlib import Path


def read_text(path: str | Path) -> str:
    """The text of a file, without a byte order mark.  `ValueError` if a byte of it is not UTF-8."""
    raw = Path(path).read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: the byte 0x{raw[error.start]:02x} is not UTF-8; expected a text file in UTF-8: save it as "
            "such, or convert it (`iconv -f latin1 -t utf-8` if it is in latin-1)"
        ) from error
