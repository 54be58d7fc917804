"""The start of a server shows its progress all the time: as a bar on a terminal, otherwise in the log."""

import asyncio
import logging
import os
import pty
import subprocess
import sys
import time

from bart_server.scheduling.contract import Progress
from bart_server.telemetry.logs import ERASE, LineWriter
from bart_server.telemetry.startup import LINE_SECONDS, LONGEST_WAIT, Startup, show_progress

from tests.server.harness import PATIENCE, wait_until


def test_the_bar_and_the_line_say_what_is_done_and_how_much_of_it():
    startup = Startup()
    assert startup.bar() == "starting, 0 s"
    startup.reading("cnn")
    assert startup.line()["stage"] == "reading cnn" and "of" not in startup.line()
    startup.compiling("cnn", lambda: Progress(4, 12))
    startup.began -= 7
    assert startup.bar() == "compiling cnn ██████████░░░░░░░░░░░░░░░░░░░░ 4 of 12 programs, 7 s"
    assert {**startup.line(), "seconds": 7} == {"stage": "compiling cnn", "programs": 4, "of": 12, "seconds": 7}


def test_the_time_that_is_left_is_in_proportion_to_the_time_that_has_passed():
    startup = Startup()
    startup.compiling("cnn", lambda: Progress(4, 12))
    startup.compiling_since -= 6
    assert 11.9 < startup.seconds_left() < 13
    startup.compiling_since -= 600
    assert startup.seconds_left() == LONGEST_WAIT
    startup.progress = lambda: Progress(12, 12)
    assert startup.seconds_left() == 0.5


def test_the_log_is_never_silent_for_five_seconds_while_a_server_starts(caplog):
    caplog.set_level(logging.INFO)

    async def main():
        async with show_progress(Startup(), every=0.01):
            async with asyncio.timeout(PATIENCE):
                while len(caplog.records) < 3:
                    await asyncio.sleep(0.01)
        count = len(caplog.records)
        await asyncio.sleep(0.05)
        assert len(caplog.records) == count, "lines are still logged after the block"

    asyncio.run(main())
    assert {record.message for record in caplog.records} == {"loading"}
    assert LINE_SECONDS < 5


def test_log_lines_stand_above_the_bar():
    readable, writable = os.pipe()
    writer = LineWriter(writable)
    for write, text in (
        (writer.put, "one"),
        (writer.show, "bar 1"),
        (writer.put, "two"),
        (writer.show, ""),
        (writer.put, "three"),
    ):
        write(text)
        writer.flush(PATIENCE)
    shown = f"one\n{ERASE}bar 1{ERASE}two\nbar 1{ERASE}three\n"
    assert os.read(readable, 4096).decode() == shown
    os.close(readable)


def test_on_a_terminal_a_starting_server_draws_a_bar():
    terminal, servers_end = pty.openpty()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.server.echo_server", "--port", "0", "--metrics", "off"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "ECHO_HOLDS": "compile"},
        stderr=servers_end,
    )
    os.close(servers_end)
    try:
        shown, deadline = b"", time.monotonic() + PATIENCE
        while b"compiling echo, 1 s" not in shown:
            assert time.monotonic() < deadline, shown.decode()
            shown += os.read(terminal, 4096)
        assert b"\r\x1b[K" in shown
        server.terminate()
        wait_until(lambda: server.poll() is not None)
        assert server.returncode == 0
    finally:
        server.kill()
        os.close(terminal)
