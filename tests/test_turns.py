"""Two sets of buffers in turn: the order that events give, on streams that do nothing else.

A stream knows which operations are over when its next one begins: those before it in the stream,
and those before every event that it was told to wait for.
"""

from types import SimpleNamespace

from gpubackprop.backends.cupy_copies import Turns
from gpubackprop.backends.turns import Turns as OneTurn


class Stream:
    current: "Stream"

    def __init__(self):
        self.over: set[str] = set()

    def do(self, name):
        """Do an operation; returns what is over before it begins."""
        before = set(self.over)
        self.over.add(name)
        return before

    def wait_event(self, event):
        self.over |= event.over

    def __enter__(self):
        self.outer, Stream.current = Stream.current, self

    def __exit__(self, *_):
        Stream.current = self.outer


class Event:
    def __init__(self, **_):
        self.over: set[str] = set()

    def record(self, stream):
        self.over = set(stream.over)


def test_no_set_is_filled_while_it_is_read_nor_read_before_it_is_full():
    compute, copies = Stream(), Stream()
    Stream.current = compute
    cuda = SimpleNamespace(Event=Event, get_current_stream=lambda: Stream.current)
    turns = Turns(SimpleNamespace(cuda=cuda), copies)
    compute.do("owner of the memory before")
    for k in range(7):
        number = turns.next()
        with turns.filling(fresh=k < 2):
            assert Stream.current is copies
            before = Stream.current.do(f"fill {k}")
        # Both sets' memory may have been somebody else's.
        assert "owner of the memory before" in before
        assert k < 2 or f"read {k - 2}" in before
        # The copy goes on while the block before is computed with.
        assert k < 2 or f"read {k - 1}" not in before
        assert number == (k + 1) % 2
        assert f"fill {k}" in Stream.current.do(f"read {k}")


def test_the_host_has_one_set():
    turns = OneTurn()
    assert [turns.next() for _ in range(3)] == [0, 0, 0]
    with turns.filling(fresh=True):
        pass
