"""Upgrader under threads, forks and Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

from upgrader_support import pair

from fct_fast import Upgrader


def _bytes_of(up, old, side):
    return up(old, side).tobytes()


class TestManyCallers:
    def test_threads_share_one_upgrader(self, make_transform, rows):
        up = Upgrader(make_transform(inner_dim=256))
        old, side = pair(rows, 2000, 12, 5)
        want = up(old, side).tobytes()
        results: list[bool] = []

        def call() -> None:
            results.extend(up(old, side).tobytes() == want for _ in range(10))

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 80

    def test_the_gil_is_released(self, make_transform, rows):
        up = Upgrader(make_transform(64, 64, 0, 2048), threads=1)
        old = rows(4000, 64)
        ticks = 0
        done = threading.Event()

        def work() -> None:
            up(old)
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)
        thread.join()
        assert ticks > 5

    def test_a_forked_child_can_upgrade(self, make_transform, rows):
        up = Upgrader(make_transform(), threads=2)
        old, side = pair(rows, 500, 12, 5)
        want = up(old, side).tobytes()
        context = multiprocessing.get_context("fork")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with context.Pool(1) as pool:
                assert pool.apply(_bytes_of, (up, old, side)) == want

    def test_ctrl_c_ends_a_long_call(self):
        """KeyboardInterrupt within 0.2 s of the signal, and the Upgrader works afterwards."""
        code = """
import os, signal, threading, time
import numpy as np
from fct_fast import Upgrader
from fct_fast.spec import Branch, Layer, TransformSpec
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that it is ignored
layers = tuple(Layer(np.eye(2048, dtype=np.float32), np.zeros(2048, np.float32), True) for _ in range(40))
up = Upgrader(TransformSpec(2048, 0, 2048, (Branch("old", ()),), layers))
old = np.ones((40000, 2048), np.float32)
sent = []
def interrupt():
    time.sleep(0.5)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    up(old)
    print("finished")
except KeyboardInterrupt:
    print("interrupted", time.perf_counter() - sent[0])
assert up(old[:3]).shape == (3, 2048)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        word, seconds = done.stdout.split()
        assert word == "interrupted"
        assert float(seconds) < 2.0, "0.2 s on a quiet machine; the bound leaves room for a busy one"


def test_sigint_handler_of_the_user_is_respected(make_transform, rows):
    """A handler that does not raise does not end the call."""
    calls = []
    previous = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        up = Upgrader(make_transform(64, 64, 0, 2048))
        old = rows(20000, 64)
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        assert up(old).shape == (20000, 64)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, previous)
