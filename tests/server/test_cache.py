"""The compile cache: what it stores, and that a server works whatever is wrong with its folder."""

import logging
import os
import pathlib
import pickle
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from bart_server.engine import cache as cache_module
from bart_server.engine.cache import ProgramCache, digest_of_code, name_of
from bart_server.scheduling.contract import Bucket, Kind
from bart_server.scheduling.tasks import Generate

MB = 2**20


def compile_double():
    argument = jax.ShapeDtypeStruct((3,), np.float32)
    return jax.jit(lambda x: 2 * x, donate_argnums=0).lower(argument).compile()


def doubled(executable):
    return np.asarray(executable(jax.numpy.arange(3.0, dtype=np.float32))).tolist()


def compile_never():
    raise AssertionError("it was compiled although it is stored")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "programs"


@pytest.fixture
def cache(folder):
    return ProgramCache(folder, 10 * MB, 30)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_stored_program_is_the_compiled_one_and_takes_its_arguments_memory_too(cache, folder):
    cache.get_or_compile("double", compile_double)
    stored = ProgramCache(folder, 10 * MB, 30).get_or_compile("double", compile_never)
    argument = jax.numpy.arange(3.0, dtype=np.float32)
    assert np.asarray(stored(argument)).tolist() == [0, 2, 4]
    assert argument.is_deleted(), "the donated argument"
    assert folder.stat().st_mode & 0o077 == 0, "others could put programs into it"


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "not a program"])
def test_a_damaged_entry_is_compiled_again_and_replaced_with_one_line_in_the_log(cache, folder, caplog, damage):
    cache.get_or_compile("double", compile_double)
    [path] = folder.iterdir()
    data = path.read_bytes()
    content = pickle.dumps((b"no executable", None, None))
    damaged = {
        "cut": data[:-100],
        "changed": data[:-1] + bytes([data[-1] ^ 1]),
        "empty": b"",
        "not a program": cache_module.hashlib.sha256(content).digest() + content,
    }
    path.write_bytes(damaged[damage])
    assert doubled(cache.get_or_compile("double", compile_double)) == [0, 2, 4]
    [line] = warnings(caplog)
    assert "damaged entry of the compile cache" in line and str(path) in line
    assert doubled(ProgramCache(folder, 10 * MB, 30).get_or_compile("double", compile_never)) == [0, 2, 4]


def test_a_folder_that_cannot_be_written_is_one_line_in_the_log(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = ProgramCache(tmp_path / "file", 10 * MB, 30)
    for name in ("one", "two"):
        assert doubled(cache.get_or_compile(name, compile_double)) == [0, 2, 4]
    cache.prune()
    lines = warnings(caplog)
    assert len([line for line in lines if "cannot be written" in line]) == 1
    assert len(lines) <= 3 and len(set(lines)) == len(lines), lines


def test_what_jax_cannot_serialize_is_compiled_at_each_start(cache, folder, caplog):
    for _ in range(2):
        assert cache.get_or_compile("plain", lambda: abs)(-1) == 1
    assert "cannot be stored" in warnings(caplog)[0] and len(warnings(caplog)) == 1
    assert not folder.exists()


PROGRAM = """
import logging, pathlib, resource, sys
import jax, numpy as np
from bart_server.engine.cache import ProgramCache
logging.basicConfig(level="WARNING", format="%(message)s")
folder, limit = sys.argv[1:]
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
cache, compiled = ProgramCache(folder, 2**30, 30), []
for factor in range(8):
    def compile():
        compiled.append(factor)
        return jax.jit(lambda x: factor * x).lower(jax.ShapeDtypeStruct((3,), np.float32)).compile()
    program = cache.get_or_compile(str(factor), compile)
    assert np.asarray(program(np.ones(3, np.float32))).tolist() == [factor] * 3
print(len(compiled))
"""


def start(folder, limit=""):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), limit],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_share_a_folder(folder):
    together = [start(folder) for _ in range(2)]
    for process in together:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0 and not errors, errors
    assert sorted(path.name for path in folder.iterdir()) == [f"{factor}.program" for factor in range(8)]
    output, errors = start(folder).communicate(timeout=200)
    assert (output.strip(), errors) == ("0", ""), "all were stored"


def test_a_full_disk_is_one_line_in_the_log_and_leaves_no_part_of_a_file(folder):
    """A limit on file sizes stands for a full disk: writing raises OSError in the middle of a file."""
    process = start(folder, limit="1000")
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0 and output.strip() == "8"
    [line] = errors.splitlines()
    assert "cannot be written" in line
    assert list(folder.iterdir()) == []


def test_pruning_deletes_what_was_used_longest_ago(folder):
    cache = ProgramCache(folder, 2500, 30)
    folder.mkdir()
    for name, days in (("old", 31), ("older use", 3), ("use", 2), ("last use", 1)):
        path = folder / f"{name}.program"
        path.write_bytes(bytes(1000))
        os.utime(path, (time.time() - days * 86_400,) * 2)
    (folder / "abandoned.partial").write_bytes(bytes(1000))
    os.utime(folder / "abandoned.partial", (time.time() - 86_400 / 2,) * 2)
    (folder / "README").write_text("not a program")
    (folder / "being-written.partial").write_bytes(b"")
    cache.prune()
    remaining = {"use.program", "last use.program", "being-written.partial", "README"}
    assert {path.name for path in folder.iterdir()} == remaining


def test_a_program_that_is_used_stays(cache, folder):
    cache.get_or_compile("double", compile_double)
    [path] = folder.iterdir()
    os.utime(path, (0, 0))
    cache.get_or_compile("double", compile_never)
    cache.prune()
    assert path.exists()


def test_whatever_a_program_depends_on_is_part_of_its_name(monkeypatch, tmp_path):
    def bucket(**changes):
        fields = {"beams": 1, "sample": False, "source": 8, "target": 4} | changes
        return Bucket(Kind.DECODE, Generate, "name", (1,), 1, **fields)

    keys = [("step", bucket(**changes), 1) for changes in ({}, {"beams": 2}, {"sample": True}, {"target": 5})]
    keys += [("step", bucket(), 2), ("init", bucket(), 1)]
    names = {name_of("model", key) for key in keys} | {name_of("other", keys[0])}
    assert len(names) == len(keys) + 1
    assert name_of("model", ("step", bucket(), 1)) == name_of("model", keys[0]), "of the same shape in another process"
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    cache_module.environment.cache_clear()
    assert name_of("model", keys[0]) not in names
    monkeypatch.undo()
    cache_module.environment.cache_clear()
    before = digest_of_code("bart_oneliner")
    changed = tmp_path / "bart_oneliner.py"
    changed.write_text(pathlib.Path(sys.modules["bart_oneliner"].__file__).read_text() + "\n")
    monkeypatch.setattr(sys.modules["bart_oneliner"], "__file__", str(changed))
    assert digest_of_code("bart_oneliner") != before
