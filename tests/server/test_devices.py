"""Several devices share the rows."""

from tests import devices

PROGRAM = """
import jax
from bart_inference import generate
from bart_server.engine import JaxEngine, Shapes
from tests.server.test_engine import House, answers, model, source

assert len(jax.devices()) == 2
prepared = model()
engine = JaxEngine(prepared, "sha256:test", Shapes((3,), (), (24,), 24, (1,)))
assert engine.lanes[0].sizes == (2,) and engine.description.devices == 2
engine.compile(lambda: False)
house = House(engine)
asked = [source(17 + index, index) for index in range(5)]
boxes = []
for ids in asked:
    boxes.append(house.ask(ids, num_beams=3))
    house.scheduler.turn()
house.work()
for ids, box in zip(asked, boxes, strict=True):
    alone = generate(prepared, [ids], num_beams=3)
    [(tokens, score)] = answers(box)
    assert tokens == tuple(alone.sequences[0][1 : alone.lengths[0]].tolist())
    assert abs(score - float(alone.sequences_scores[0])) < 1e-4
print("equal")
"""


def test_rows_on_two_devices_are_each_as_alone():
    ended = devices.run(PROGRAM, 2)
    assert ended.stdout == "equal\n", ended.stderr
