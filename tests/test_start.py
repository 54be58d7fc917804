"""jax is imported neither by bart_inference, nor by its modules for texts and options, nor by any command's --help."""

import tomllib
from pathlib import Path

import pytest

from support.process import run

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("jax", "jaxlib", "torch", "transformers", "optax")
WITHOUT_JAX = ("", ".buckets", ".tokenization", ".tokenizer_files", ".generation.options", ".generation.arrays", ".cli")


def commands() -> dict[str, str]:
    """The commands of both distributions: name -> "module:function"."""
    projects = [tomllib.loads((ROOT / folder / "pyproject.toml").read_text()) for folder in (".", "clients/python")]
    return {name: entry for project in projects for name, entry in project["project"]["scripts"].items()}


def test_the_commands_are_those_of_the_readme() -> None:
    assert set(commands()) == {"bart-oneliner", "bart-server", "bart-client", "bart-finetune"}


@pytest.mark.parametrize("command", sorted(commands()))
def test_help_is_printed_without_jax(command: str) -> None:
    module, function = commands()[command].split(":")
    done = run(
        f"import sys, atexit; sys.argv = [{command!r}, '--help']\n"
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
        f"from {module} import {function}; sys.exit({function}())"
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and command.partition("-")[2] in done.stdout
    assert done.stderr.strip() == "[]", f"{command} --help imports {done.stderr}"


@pytest.mark.parametrize("module", WITHOUT_JAX)
def test_a_module_is_imported_without_jax(module: str) -> None:
    done = run(f"import sys, bart_inference{module}; print([m for m in {HEAVY} if m in sys.modules])")
    assert done.stdout.strip() == "[]", f"bart_inference{module} imports {done.stdout}{done.stderr}"


def test_fine_tuning_names_the_extra_where_it_is_missing() -> None:
    done = run(
        "import sys; sys.modules['optax'] = None  # importing it raises ImportError, as if it were not installed\n"
        "from bart_training.finetune import main\n"
        "sys.exit(main('--corpus C --tokenizer T --run R --steps 1'.split()))"
    )
    assert done.returncode == 2
    assert done.stderr == "bart-finetune: optax is missing: pip install 'bart-oneliner[train]'\n"


def test_the_server_names_the_extra_where_it_is_missing() -> None:
    done = run(
        "import sys; sys.modules['prometheus_client'] = None  # importing it raises ImportError\n"
        "from bart_server.__main__ import main\n"
        "sys.argv = ['bart-server', '--port', '0']\n"
        "main()"
    )
    assert done.returncode == 2
    assert done.stderr == "bart_server: prometheus_client is missing: pip install 'bart-oneliner[server]'\n"
