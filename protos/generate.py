"""Generates the Python stubs of protos/ in clients/python/bart_proto, where they are committed.

    python protos/generate.py           writes the stubs
    python protos/generate.py --check   exits with 1 if the committed stubs differ

The version of the generator is fixed, because stubs need a grpcio of at least the generator's version. The package is
`bart.v1` on the wire and `bart_proto.v1` in Python; the latter comes from `-Ibart_proto=…` in the arguments of protoc.
"""

import argparse
import importlib.metadata
import pathlib
import sys
import tempfile

import grpc_tools
from grpc_tools import protoc

GENERATOR = "1.81.1"
PROTOS = pathlib.Path(__file__).resolve().parent
STUBS = PROTOS.parent / "clients" / "python"


def generate(out: pathlib.Path) -> list[pathlib.Path]:
    """Writes the stubs under `out`; returns their paths relative to it."""
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    sources = sorted((PROTOS / "bart").rglob("*.proto"))
    arguments = [
        "protoc",
        f"-Ibart_proto={PROTOS / 'bart'}",
        f"-I{well_known}",
        *(f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")),
        *map(str, sources),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    return sorted(path.relative_to(out) for path in out.rglob("*_pb2*.py*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed stubs, write nothing")
    check = parser.parse_args().check
    installed = importlib.metadata.version("grpcio-tools")
    if installed != GENERATOR:
        raise SystemExit(f"grpcio-tools {GENERATOR} is needed, {installed} is installed")
    with tempfile.TemporaryDirectory() as folder:
        fresh = pathlib.Path(folder)
        names = generate(fresh)
        committed = {path.relative_to(STUBS) for path in (STUBS / "bart_proto").rglob("*_pb2*.py*")}
        stale = sorted(
            str(name)
            for name in committed | set(names)
            if name not in names or name not in committed or (fresh / name).read_bytes() != (STUBS / name).read_bytes()
        )
        if check:
            print(f"stale: {', '.join(stale)}" if stale else "stubs are fresh")
            sys.exit(bool(stale))
        for name in committed - set(names):
            (STUBS / name).unlink()
        for name in names:
            (STUBS / name).parent.mkdir(parents=True, exist_ok=True)
            (STUBS / name).write_bytes((fresh / name).read_bytes())
        print(f"{len(names)} files written, {len(stale)} changed")


if __name__ == "__main__":
    main()
