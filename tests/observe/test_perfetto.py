"""The file that Perfetto opens holds every action, and an arrow for every message."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from timelines import simulated, step

from mpitrain.observe.perfetto import write_perfetto


def test_every_action_is_a_slice_and_every_message_an_arrow(tmp_path):
    trace = simulated(3, 4)
    write_perfetto([trace, replace(trace, step=9)], tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == 2 * sum(map(len, trace.spans))
    first = {(event["pid"], event["name"]): event for event in slices if event["args"]["step"] == 7}
    for span in (span for rank in trace.spans for span in rank):
        event = first[span.rank, str(span.action)]
        assert (event["ts"], event["dur"]) == (span.begin * 1e6, (span.end - span.begin) * 1e6)
    assert {event["cat"] for event in slices} == {"compute", "send", "receive", "reduce"}
    arrows = Counter((event["ph"], event["id"]) for event in events if event["ph"] in "sf")
    assert len(arrows) == 2 * 2 * (2 * 2 * 4)  # start and end, of two steps, of F and B over two links for 4 microbatches
    assert set(arrows.values()) == {1}
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["rank 0", "rank 1", "rank 2"]


def test_a_rank_of_several_pipelines_stands_there_once(tmp_path):
    """dp=1+2: what rank 0 does once is once in the file, and it sends to both others."""
    middle = "1RECV_F0 0 3, 1F0 3 4, 1B0 4 5, 1SEND_B0 5 6"
    trace = step("0F0 0 1, 0SEND_F0 1 2, 0RECV_B0 2 6, 0B0 6 7", middle, middle, pipelines=[(0, 1), (0, 2)])
    write_perfetto([trace], tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert Counter((e["pid"], e["name"]) for e in events if e["ph"] == "X" and e["pid"] == 0) == {
        (0, name): 1 for name in ("0F0", "0SEND_F0", "0RECV_B0", "0B0")
    }
    begin, end = ({e["id"]: e["pid"] for e in events if e["ph"] == ph} for ph in "sf")
    assert sorted((begin[message], end[message]) for message in begin) == [(0, 1), (0, 2), (1, 0), (2, 0)]
    assert begin.keys() == end.keys()
    assert sum(e["ph"] in "sf" for e in events) == 2 * 4


def test_steps_follow_each_other(tmp_path):
    trace = simulated(2, 2)
    write_perfetto([trace, replace(trace, step=9)], tmp_path / "trace.json")
    events = [e for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if e["ph"] == "X"]
    ends = max(e["ts"] + e["dur"] for e in events if e["args"]["step"] == 7)
    assert min(e["ts"] for e in events if e["args"]["step"] == 9) == ends + 1000.0
