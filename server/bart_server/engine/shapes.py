"""Decides which shapes are compiled: those of the settings, or the checkpoint's where a setting is empty."""

from typing import NamedTuple

from bart_inference.buckets import source_bucket, target_bucket

from bart_server.settings import SettingsError


class Shapes(NamedTuple):
    """The shapes that are compiled, as in the settings of the same names. rows: counts for each device."""

    beams: tuple[int, ...]
    sampling_beams: tuple[int, ...]
    sources: tuple[int, ...]
    target: int
    rows: tuple[int, ...]


def complete(shapes: Shapes, default: int, positions: int) -> Shapes:
    """The shapes, with source and target lengths that suit the checkpoint where the settings have none.

    default: the most tokens of an answer to a request without options. positions: rows of the model's position table.
    Raises SettingsError for a length beyond the position table, and for a target shorter than `default`.
    """
    sources = shapes.sources
    if not sources:
        quarter = source_bucket(-(-positions // 4), positions)
        sources = tuple(sorted({quarter, source_bucket(positions, positions)}))
    target = shapes.target or target_bucket(min(default + default // 2, positions), positions)
    for name, value in (("sources", sources[-1]), ("target", target)):
        if value > positions:
            limit = f"at most {positions}, the model's position table"
            raise SettingsError(f"--{name} is {value}, it has to be {limit}")
    if target < default:
        raise SettingsError(f"--target is {target}, it has to be at least {default}, the checkpoint's default length")
    return shapes._replace(sources=sources, target=target)
