"""Text files are UTF-8 under any locale, and a bad byte in one is a sentence."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mpitrain
from mpitrain.config import ConfigError, load
from mpitrain.program import schedule_named

RECIPE = """\
# Fünf Wörter — mehr nicht.
[run]
name = "größe"
steps = 1
[model]
kind = "mlp"
sizes = [64, 10]
[data]
kind = "digits"
images = "flat"
[train]
batch = 8
[optimizer]
kind = "sgd"
lr = 0.1
"""


def test_a_byte_order_mark_is_no_statement(tmp_path):
    (tmp_path / "bom.toml").write_bytes(RECIPE.encode("utf-8-sig"))
    assert load(tmp_path / "bom.toml").run.name == "größe"
    (tmp_path / "bom.csv").write_bytes("0F0,0B0\n".encode("utf-8-sig"))
    assert str(schedule_named(str(tmp_path / "bom.csv"))(1, 1)[0][0]) == "0F0"


def test_a_byte_that_is_not_utf8_is_named_with_its_line(tmp_path):
    file = tmp_path / "latin.toml"
    file.write_bytes(RECIPE.replace("# Fünf Wörter — mehr nicht.", "# none here").encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.toml, line 3: the byte 0xf6 is not UTF-8; expected a text file in UTF-8"):
        load(file)


def test_utf8_is_read_and_written_under_an_ascii_locale(tmp_path):
    (tmp_path / "utf8.toml").write_text(RECIPE, encoding="utf-8")
    program = (
        "from pathlib import Path; from mpitrain.config import dump, load; c = load('utf8.toml');"
        "Path('again.toml').write_text(dump(c), encoding='utf-8'); print(load('again.toml') == c);"
        "from mpitrain.cli import main; main(['plan', 'utf8.toml'])"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = os.environ | ascii_only | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True\n")


def test_no_text_file_is_opened_by_the_locale():
    """`open`, `read_text` and `write_text` name an encoding, or bytes are meant."""
    package = Path(mpitrain.__file__).parent
    calls = [
        (path.relative_to(package), node)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and _opens_text(node)
    ]
    assert calls
    assert [f"{path}:{node.lineno}" for path, node in calls if not any(k.arg == "encoding" for k in node.keywords)] == []


def _opens_text(call: ast.Call) -> bool:
    """Whether it is `open(...)`, of a path too, without a mode of bytes; or `read_text` or `write_text`."""
    of, _, name = ast.unparse(call.func).rpartition(".")
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    opens = name == "open" and of not in ("os", "Checkpoint") and not any("b" in mode for mode in modes)
    return opens or (bool(of) and name in ("read_text", "write_text"))
