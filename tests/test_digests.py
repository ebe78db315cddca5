"""A digest computed beside the writing is that of hashlib, however the data come."""

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noether import digests
from noether.digests import PIECE, WAITING, Digest, close

RANDOM = torch.randint(
    256, (3 * PIECE,), dtype=torch.uint8, generator=torch.Generator().manual_seed(5)
)
DATA = RANDOM.numpy().tobytes()

near = st.integers(-3, 3)
sizes = st.one_of(
    st.integers(0, 100),
    st.builds(lambda pieces, off: max(pieces * PIECE + off, 0), st.integers(0, 3), near),
)


def parts(lengths: Sequence[int], start: int) -> list[bytes]:
    """Data of these lengths, no two of which begin alike."""
    doubled = DATA + DATA
    return [doubled[(start + 7 * n) % 999 :][:length] for n, length in enumerate(lengths)]


def digest(pieces: Sequence[bytes]) -> str:
    """The digest; the memory of each piece is overwritten as soon as it was given."""
    made = Digest()
    for piece in pieces:
        lent = bytearray(piece)
        made.update(memoryview(lent))
        lent[:] = bytes(len(lent))
    return made.hexdigest()


def followers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t is not threading.main_thread() and t.daemon]


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(sizes, max_size=6), start=st.integers(0, 50))
@example(lengths=[], start=0)
@example(lengths=[0, PIECE, 0, 1], start=0)
@example(lengths=[PIECE - 1, PIECE - 1, 1], start=0)
@example(lengths=[1, 3 * PIECE, 5, PIECE + 1], start=0)
def test_a_digest_is_that_of_hashlib_for_any_split(lengths: list[int], start: int) -> None:
    pieces = parts(lengths, start)
    before = followers()
    assert digest(pieces) == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert followers() == before


def test_more_pieces_than_may_wait_are_digested_in_little_memory() -> None:
    # The memory that is kept from digest to digest is at most what one may have waiting.
    pieces = [DATA, *[bytes([n]) for n in range(200)], *[DATA] * (WAITING // 2)]
    assert sum(map(len, pieces)) > (WAITING + 8) * PIECE
    for _ in range(2):
        assert digest(pieces) == hashlib.sha256(b"".join(pieces)).hexdigest()
        assert digests.KEPT.qsize() <= WAITING


def test_one_large_write_of_any_shape_is_digested_as_its_bytes() -> None:
    numbers: Any = RANDOM[: 2 * PIECE].view(torch.float32).reshape(2, -1).numpy()
    for view in (memoryview(numbers), memoryview(numbers[0]), memoryview(b"")):
        made = Digest()
        made.update(view)
        assert made.hexdigest() == hashlib.sha256(view.tobytes()).hexdigest()


def test_digests_in_many_threads_at_once_keep_apart() -> None:
    jobs = [parts([n, PIECE + n, 3, 2 * PIECE - n, n * 1000], n) for n in range(12)]
    before = followers()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(digest, jobs))
    assert found == [hashlib.sha256(b"".join(pieces)).hexdigest() for pieces in jobs]
    assert len(set(found)) == len(found)
    assert followers() == before


def test_a_digest_given_up_leaves_no_thread_and_the_next_one_is_right() -> None:
    before = followers()
    for _ in range(3):
        abandoned = Digest()
        abandoned.update(memoryview(DATA))
        assert len(followers()) == len(before) + 1
        close(abandoned)
        close(abandoned)
        assert followers() == before
    assert digest([DATA]) == hashlib.sha256(DATA).hexdigest()
