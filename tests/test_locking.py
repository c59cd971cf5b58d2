"""Locks between processes: who waits, who does not, and where there are none."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from ibpc.locking import briefly_locked, locked, take


def test_a_lock_is_held_by_one(tmp_path):
    held = take(tmp_path / "lock")
    assert held is not None and take(tmp_path / "lock") is None
    held.close()
    again = take(tmp_path / "lock")
    assert again is not None
    again.close()


def test_a_brief_lock_leaves_nothing_and_lets_one_in_at_a_time(tmp_path):
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(50):
            with briefly_locked(tmp_path / "lock"):
                inside[0] += 1
                time.sleep(0.0005)
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == [1] and not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="only there are locks those of the file system")
def test_work_goes_on_where_a_file_system_has_no_locks(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    held = take(tmp_path / "lock")
    assert held is not None
    held.close()
    with locked(tmp_path / "lock"), briefly_locked(tmp_path / "brief"):
        pass
