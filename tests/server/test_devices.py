"""With several devices, each computes some of a batch's rows, and the answers are the same."""

from support.process import run_on_devices

PROGRAM = """
import tempfile

import jax
from bart_inference import generate
from bart_server.engine.cache import ProgramCache
from bart_server.engine.engine import JaxEngine
from bart_server.engine.platform import COMPILATION
from bart_server.engine.shapes import Shapes
from tests.server.harness import working
from tests.server.test_engine import SchedulerDriver, answers, model, source

assert len(jax.devices()) == 2
prepared = model()
compiled = []


def listen(event, duration, **_):
    if event == COMPILATION:
        compiled.append(event)


def make():
    # The first engine stores its programs in the cache, and the second one loads them.
    engine = JaxEngine(prepared, "sha256:test", Shapes((3,), (), (24,), 24, (1, 2)), cache=cache)
    assert engine.buckets[0].sizes == (2, 4) and engine.description.devices == 2
    engine.compile(lambda: False)
    return engine


jax.monitoring.register_event_duration_secs_listener(listen)
cache = ProgramCache(tempfile.mkdtemp(), 2**30, 30)
first = make()
assert compiled
compiled.clear()
second = make()
assert not compiled, "a program for two devices was not found"
for workers, count, engine in ((1, 5, first), (3, 40, second)):
    asked = [source(17 + index % 8, index) for index in range(count)]
    boxes = []
    if workers == 1:
        driver = SchedulerDriver(engine)
        for ids in asked:
            boxes.append(driver.ask(ids, num_beams=3))
            driver.scheduler.iterate()
        driver.work()
    else:
        driver = SchedulerDriver(engine, workers=workers)
        with working(driver.scheduler, workers):
            boxes = [driver.ask(ids, num_beams=3) for ids in asked]
            assert all(box.ended.wait(60) for box in boxes)
    for ids, box in zip(asked, boxes, strict=True):
        alone = generate(prepared, [ids], num_beams=3)
        [(tokens, score)] = answers(box)
        assert tokens == tuple(alone.sequences[0][1 : alone.lengths[0]].tolist())
        assert abs(score - float(alone.sequences_scores[0])) < 1e-4
    print(workers, "equal")
"""


def test_rows_on_two_devices_are_each_as_alone():
    """The program runs few requests with one worker, and many with three."""
    ended = run_on_devices(PROGRAM, 2)
    assert ended.stdout == "1 equal\n3 equal\n", ended.stderr
