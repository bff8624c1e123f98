"""Packed records: the same records, in memory that workers share."""

import multiprocessing
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.data import Record, Turn
from cotbal.data.packed import PackedRecords

texts = st.text(max_size=8)
turns = st.builds(
    Turn, st.sampled_from(["system", "user", "assistant"]), texts, st.sampled_from([0.0, 0.5, 1.0])
)
images = st.binary(max_size=4) | st.sampled_from([Path("a.png"), Path("/x/é.png")])
records = st.builds(
    Record,
    id=texts,
    task=texts,
    images=st.lists(images, max_size=2).map(tuple),
    turns=st.lists(turns, max_size=3).map(tuple),
    references=st.lists(texts, max_size=2).map(tuple),
    source=st.sampled_from([Path("data.json"), Path("more.json")]),
    index=st.integers(0, 2**40),
)


@given(st.lists(records, max_size=5))
def test_packed_records_are_the_records(some: list[Record]) -> None:
    packed = PackedRecords(some)
    assert list(packed) == some
    assert [packed[index - len(some)] for index in range(len(some))] == some
    assert packed[1:] == some[1:]
    with pytest.raises(IndexError):
        packed[len(some)]


@given(st.lists(st.lists(records, max_size=4), max_size=3), st.data())
def test_chosen_and_joined_records_are_those_of_lists(some: list[list[Record]], data: st.DataObject) -> None:
    parts, lists = [], []
    for each in some:
        indices = data.draw(st.lists(st.integers(0, len(each) - 1), max_size=6)) if each else []
        packed = PackedRecords(each)
        # A part twice, so that a block is met twice.
        parts += [packed.select(indices), packed]
        lists += [[each[index] for index in indices], each]
    joined = PackedRecords.joined(parts)
    expected = [record for each in lists for record in each]
    assert list(joined) == expected
    assert list(joined.where()) == [(record.source, record.index) for record in expected]
    assert [tuple(map(str, images)) for images in joined.images()] == [
        tuple(map(str, record.images)) for record in expected
    ]
    assert joined.pictures.tolist() == [len(record.images) for record in expected]
    again = joined.select(range(len(joined) - 1, -1, -1))
    assert list(again) == expected[::-1]
    assert list(pickle.loads(pickle.dumps(joined))) == expected


def test_choosing_and_joining_copies_no_record() -> None:
    text = "x" * 1_000_000
    packed = PackedRecords([Record("", "t", (), (Turn("user", text),), (), Path("a.json"), 0)])
    tracemalloc.start()
    joined = PackedRecords.joined([packed.select([0]), packed])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(joined) == 2
    assert peak < len(text) / 2


def private_kib() -> int:
    """Memory of this process that it shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean")))


def read_all(records: Any, sent: Any) -> None:
    before = private_kib()
    for index in range(len(records)):
        assert records[index].turns
    sent.send(private_kib() - before)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"), reason="the kernel does not tell what is shared"
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_reader_copies_little() -> None:
    some = [
        Record(
            str(i),
            "t",
            (),
            (Turn("user", f"{i} " * 40), Turn("assistant", f"{i}")),
            ("x",),
            Path("a.json"),
            i,
        )
        for i in range(20_000)
    ]
    grown = {}
    context = multiprocessing.get_context("fork")
    for name, held in (("list", some), ("packed", PackedRecords(some))):
        receive, send = context.Pipe()
        reader = context.Process(target=read_all, args=(held, send))
        reader.start()
        grown[name] = receive.recv()
        reader.join()
    # The list is copied as it is read; the packed records are not.
    assert grown["packed"] < grown["list"] / 4
