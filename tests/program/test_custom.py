"""A schedule from a CSV file, and what is said of a wrong one."""

from __future__ import annotations

import pytest

from mpitrain.program import schedule_named
from mpitrain.program.schedules import zb_h1, zb_v


def write(path, rows):
    file = path / "order.csv"
    file.write_text(rows)
    return schedule_named(str(file))


@pytest.mark.parametrize("schedule", [zb_h1, zb_v])
def test_what_is_written_is_read(tmp_path, schedule):
    rows = schedule(3, 5)
    text = "\n".join(", ".join(map(str, actions)) for actions in rows)
    assert write(tmp_path, text)(3, 5) == rows


def test_empty_cells_show_bubbles(tmp_path):
    read = write(tmp_path, "0F0,0F1,,,0B0,,0B1\n\n,1F0,1B0,1F1,1B1\n")
    assert [" ".join(map(str, actions)) for actions in read(2, 2)] == ["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"]


WRONG = {
    "no action": ("0F0,0B0\n1F0,F1\n", r"order.csv, line 2, cell 2: 'F1' is not an action; expected stage, kind, microbatch"),
    "not compute": ("0F0,0STEP,0B0\n", r"line 1, cell 2: '0STEP' is not for a schedule; expected stage, one of F"),
    "not compute, overlapped": ("0F0,(0F1;F)OVERLAP_F_B\n", r"line 1, cell 2: 'F' is not an action; expected stage, kind"),
    "no compute": ("0SEND_F0\n1RECV_F0\n", r"order.csv runs no microbatch; expected the step's 2, 0 to 1"),
    "no microbatch": ("\n0F,0B0\n", r"line 2, cell 1: '0F' is not for a schedule"),
    "rows": ("0F0,0B0\n", r"order.csv has 1 rows and the pipeline has 2 ranks; expected one row a rank"),
    "microbatches": ("0F0,0B0\n1F0,1B0\n", r"order.csv runs 1 microbatches, 0 to 0; expected the step's 2, 0 to 1"),
    "order": ("0F0,0B1,0F1,0B0\n1F0,1B0,1F1,1B1\n", r"rank 0, 0B1: 0F1 has to come before it\n.*0B1   <-- here"),
    "deadlock": ("0F0,0B0,0F1,0B1\n1F1,1B1,1F0,1B0\n", r"cannot finish: rank 0 waits in 0RECV_B0; rank 1 waits in 1RECV_F1"),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused(tmp_path, text, says):
    schedule = write(tmp_path, text)
    with pytest.raises(ValueError, match=says):
        schedule(2, 2)
