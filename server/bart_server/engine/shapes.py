"""Which shapes are wanted: the settings, with what they leave open chosen by the checkpoint."""

from typing import NamedTuple

from bart_inference.buckets import source_bucket, target_bucket

from bart_server.settings import SettingsError


class Shapes(NamedTuple):
    """See the settings of the same names. rows: of each device."""

    beams: tuple[int, ...]
    sampling_beams: tuple[int, ...]
    sources: tuple[int, ...]
    target: int
    rows: tuple[int, ...]


def complete(shapes: Shapes, default: int, positions: int) -> Shapes:
    """The shapes with what was left open chosen. default: the checkpoint's longest answer. positions: its table's size.

    Raises SettingsError for what the position table cannot hold.
    """
    sources = shapes.sources or tuple(sorted({source_bucket(-(-positions // part), positions) for part in (4, 1)}))
    target = shapes.target or target_bucket(min(default + default // 2, positions), positions)
    for name, value in (("sources", sources[-1]), ("target", target)):
        if value > positions:
            limit = f"at most {positions}, the model's position table"
            raise SettingsError(f"--{name} is {value}, it has to be {limit}")
    if target < default:
        raise SettingsError(f"--target is {target}, it has to be at least {default}, the checkpoint's default length")
    return shapes._replace(sources=sources, target=target)
