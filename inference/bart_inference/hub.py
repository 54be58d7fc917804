"""Finds the folder of a checkpoint: on this machine, or downloaded from the Hugging Face hub. Imports no jax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bart_inference.formats import SAFETENSORS, CheckpointError, check_files

FIELDS = ["*.json", "*.txt"]  # the files of configs and tokenizers
WEIGHTS = ["*.safetensors"]
OLD_WEIGHTS = ["pytorch_model*.bin", "adapter_model.bin"]  # downloaded only where there are no safetensors


def find_folder(
    path_or_hub_id: str | Path, revision: str | None = None, token: str | bool | None = None, weights: bool = True
) -> Path:
    """The local folder of that name, or else the hub id's folder in huggingface_hub's cache, downloaded if necessary.

    revision: a branch, tag or commit of the repository; its main branch by default. token: an access token of the hub.
    weights: False downloads only what a tokenizer needs.
    CheckpointError if there is no such folder, if it cannot be downloaded, or if the repository has no weights in a
    format that `load` reads.
    """
    folder = Path(path_or_hub_id).expanduser()
    if folder.is_dir() and str(path_or_hub_id):
        return folder
    hub_id = str(path_or_hub_id)
    if folder.exists() or hub_id.startswith((".", "/", "~")) or hub_id.count("/") != 1:
        raise CheckpointError(f"{hub_id}: no such folder, and not a hub id of the form owner/name")
    if not weights:
        return download(hub_id, revision, token, FIELDS)
    folder = download(hub_id, revision, token, FIELDS + WEIGHTS)
    if not any((folder / name).exists() for name in SAFETENSORS):
        folder = download(hub_id, revision, token, FIELDS + WEIGHTS + OLD_WEIGHTS)
    try:
        check_files(hub_id, [path.name for path in folder.iterdir()])
    except CheckpointError:
        # The download left out all files that `load` does not read. This error names the first of them that holds
        # weights, and the commands that download and convert it.
        command = f"hf download {hub_id} --local-dir FOLDER" + (f" --revision {revision}" if revision else "")
        check_files(hub_id, list_files(hub_id, revision, token), f"First: {command}")
        raise
    return folder


def download(hub_id: str, revision: str | None, token: str | bool | None, patterns: list[str]) -> Path:
    """The cached copy of a repository's files of these names; CheckpointError says why there is none."""
    from huggingface_hub import snapshot_download

    subfolders = "*/*"  # not downloaded: they often hold copies of the weights at earlier steps of training
    try:
        folder = snapshot_download(
            hub_id, revision=revision, token=token, allow_patterns=patterns, ignore_patterns=subfolders
        )
    except Exception as error:  # requests', httpx' or httpx2's errors, depending on the version of huggingface_hub
        raise CheckpointError(f"{hub_id}: no such folder, and {why_not_downloaded(error, hub_id, revision)}") from error
    return Path(folder)


def list_files(hub_id: str, revision: str | None, token: str | bool | None) -> list[str]:
    """The names of all files of a repository; CheckpointError says why they are not known."""
    from huggingface_hub import HfApi

    try:
        return HfApi(token=token).list_repo_files(hub_id, revision=revision)
    except Exception as error:  # requests', httpx' or httpx2's errors, depending on the version of huggingface_hub
        raise CheckpointError(
            f"{hub_id}: the copy in the hub's cache has no weights, and {why_not_downloaded(error, hub_id, revision)}"
        ) from error


def why_not_downloaded(error: Exception, hub_id: str, revision: str | None) -> str:
    """Why files were not downloaded from the hub, as the second half of a sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause: Any = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    message = str(cause).strip() or type(cause).__name__
    first_line = message.splitlines()[0]
    if isinstance(cause, HFValidationError):
        return f"it is no hub id: {first_line}"
    if isinstance(cause, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE forbids to download what the cache {constants.HF_HUB_CACHE} does not hold"
    if isinstance(cause, GatedRepoError):
        page = f"{constants.ENDPOINT}/{hub_id}"
        return f"its owner grants access one by one: ask on {page}, then log in by `hf auth login` or set HF_TOKEN"
    if isinstance(cause, RepositoryNotFoundError):
        return (
            f"the hub {constants.ENDPOINT} has no such model, or it is private: log in by `hf auth login` or set "
            "HF_TOKEN"
        )
    if isinstance(cause, RevisionNotFoundError):
        return f"the model on the hub has no revision {revision!r}"
    if isinstance(error, LocalEntryNotFoundError) and not isinstance(cause, HfHubHTTPError):
        return (
            f"it is not in the cache {constants.HF_HUB_CACHE}, and the hub {constants.ENDPOINT} cannot be reached: "
            f"{first_line}"
        )
    return f"the hub {constants.ENDPOINT} answered: {first_line}"
