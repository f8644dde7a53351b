"""Groups of ranks, and the arrays that travel between them."""

from mpitrain.comm.collective import Collective, InFlight, finish
from mpitrain.comm.communicator import Communicator, Peers, Reduction, Request, World
from mpitrain.comm.failure import end_job_on_failure
from mpitrain.comm.launch import launch
from mpitrain.comm.layout import Layout
from mpitrain.comm.local import local
from mpitrain.comm.mesh import Mesh, Place
from mpitrain.comm.post import PeerGoneError, RankDiedError
from mpitrain.comm.progress_thread import ProgressChoice, ProgressThread, choose_progress, progress_named
from mpitrain.comm.rollcall import roll_call
from mpitrain.comm.start import world
from mpitrain.comm.text import broadcast_text, gather_text, spans
from mpitrain.comm.watchdog import Watchdog

__all__ = [
    "Collective",
    "Communicator",
    "InFlight",
    "Layout",
    "Mesh",
    "PeerGoneError",
    "Peers",
    "Place",
    "ProgressChoice",
    "ProgressThread",
    "RankDiedError",
    "Reduction",
    "Request",
    "Watchdog",
    "World",
    "broadcast_text",
    "choose_progress",
    "end_job_on_failure",
    "finish",
    "gather_text",
    "launch",
    "local",
    "progress_named",
    "roll_call",
    "spans",
    "world",
]
