"""Compares our `generate` with the oracle: transformers' `generate`, recorded with the margins of its decisions.

A difference of tokens is an error unless, at the first decision that differs, transformers preferred its choice by less
than NEAR: a sum in float32 depends on the order of its terms, so either choice is right. In practice the
choices have exactly equal scores: all of several forced end tokens have the score 0, and torch.topk promises no order
for equal scores.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from bart_inference import Generated, Prepared, generate
from bart_inference.generation.generate import check_prompts, start_decoding
from bart_inference.generation.options import resolve
from bart_inference.generation.search import decode
from bart_inference.inputs import check_source

TorchModel = Any  # transformers' BartForConditionalGeneration, in eval mode
NEAR = 1e-4  # a margin (a difference of log-probabilities) below this may be due to rounding
TOLERANCE = 1e-5  # a log-probability x may differ by this times max(1, |x|) times error_factor
DEAD = -1e8  # a score below this belongs to a dead beam, whose score is about -1e9 in transformers

logging.getLogger("transformers").setLevel(logging.ERROR)  # no warnings about unusual combinations of options


class Case(NamedTuple):
    """A batch of sources for a checkpoint, with options of `generate`."""

    checkpoint: str  # the checkpoint's name in messages
    input_ids: np.ndarray
    attention_mask: np.ndarray | None
    decoder_input_ids: np.ndarray | None
    options: Mapping[str, Any]

    def __str__(self) -> str:
        shape = "×".join(map(str, self.input_ids.shape))
        prompt = "" if self.decoder_input_ids is None else f", prompts of {self.decoder_input_ids.shape[1]}"
        return f"{self.checkpoint}, sources {shape}{prompt}, {dict(self.options)}"


class Step(NamedTuple):
    """A step of transformers' beam search with N beams."""

    running: np.ndarray  # (B,N,length) tokens of the running beams after the step
    finished: np.ndarray  # (B,N,length) tokens of the finished beams after the step
    margin: np.ndarray  # (B,) the smallest difference of scores on which a decision of the step depended


class Reference(NamedTuple):
    """The answer of transformers' `generate` to a case, with n sequences for each source."""

    sequences: np.ndarray  # (B·n,T) token ids
    lengths: np.ndarray  # (B·n,) number of tokens of each sequence, prompt and end token included
    sequences_scores: np.ndarray | None  # None for greedy search
    log_probs: np.ndarray  # (B·n,T - prompt) of the generated tokens
    scores: list[np.ndarray]  # for each step, the scores (rows,V) after the logits processors
    steps: list[Step]  # the steps of beam search; empty for greedy search


def reference(case: Case, model: TorchModel) -> Reference:
    """Runs transformers' `generate` and records its answer, its scores and, for beam search, its steps."""
    arrays = {
        "attention_mask": case.attention_mask,
        "decoder_input_ids": case.decoder_input_ids,
    }
    inputs = {name: torch.tensor(array) for name, array in arrays.items() if array is not None}
    steps: list[Step] = []
    with warnings.catch_warnings(), recording(model, steps):
        warnings.simplefilter("ignore")
        out = model.generate(
            torch.tensor(case.input_ids), **inputs, **case.options,
            do_sample=False, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    beams = case.options["num_beams"] > 1
    log_probs = model.compute_transition_scores(
        out.sequences, out.scores, out.beam_indices if beams else None, normalize_logits=not beams
    )
    sequences = out.sequences.numpy()
    prompt = sequences.shape[1] - log_probs.shape[1]
    if beams:
        generated = (out.beam_indices >= 0).sum(1).numpy()  # transformers writes -1 after the end of a sequence
        scores = out.sequences_scores.numpy()
    else:
        ends = np.atleast_1d(case.options.get("eos_token_id", model.generation_config.eos_token_id))
        generated = lengths_to_end(sequences[:, prompt:], ends)
        scores = None
    lengths = prompt + generated
    return Reference(sequences, lengths, scores, log_probs.numpy(), [s.numpy() for s in out.scores], steps)


def lengths_to_end(tokens: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(B,): the number of tokens of each row of (B,T) up to and including its first end token; T if it has none."""
    is_end = np.isin(tokens, ends)
    return np.where(is_end.any(1), is_end.argmax(1) + 1, tokens.shape[1])


@contextmanager
def recording(model: Any, steps: list[Step]) -> Iterator[None]:
    """Appends each step of transformers' beam search to `steps`, by wrapping methods that it calls in each step.

    The wrappers return the results of the methods that they replace. The margin of a step is the smallest of three
    differences of scores: between neighbors among the best continuations, between neighbors among the finished beams,
    and between the best running beam and the finished beam with which the search compares it to decide whether to stop.
    """
    parts: dict[
        str, torch.Tensor
    ] = {}  # of the present step: "rank" and "order" (B,), "running" and "finished" (B,N,T)
    names = ("_get_top_k_continuations", "_get_running_beams_for_next_iteration", "_update_finished_beams")
    kinds = {name: getattr(type(model), name) for name in (*names, "_check_early_stop_heuristic")}

    def gaps(values: torch.Tensor) -> torch.Tensor:
        """(B,n) in descending order -> (B,): the smallest difference between neighbors that are not dead."""
        distance = torch.where(values[:, 1:] > DEAD, values[:, :-1] - values[:, 1:], torch.inf)
        return distance.nan_to_num(torch.inf).amin(1)

    def continuations(**arguments: Any) -> Any:
        total = arguments["accumulated_log_probs"]
        parts["rank"] = gaps(torch.topk(total, min(arguments["beams_to_keep"] + 1, total.shape[1])).values)
        return kinds[names[0]](model, **arguments)

    def running(**arguments: Any) -> Any:
        result = kinds[names[1]](model, **arguments)
        parts["running"] = result[0]
        return result

    def finished(**arguments: Any) -> Any:
        length = arguments["cur_len"] + 1 - arguments["decoder_prompt_len"]
        ended = arguments["next_token_hits_stopping_criteria"] & arguments["top_num_beam_mask"][None]
        new = torch.where(ended, arguments["topk_log_probs"] / length ** arguments["length_penalty"], -1e9)
        both = torch.cat([arguments["beam_scores"], new], 1)
        parts["order"] = gaps(torch.topk(both, min(arguments["num_beams"] + 1, both.shape[1])).values)
        result = kinds[names[2]](model, **arguments)
        parts["finished"] = result[0]
        return result

    def stop(**arguments: Any) -> Any:
        patient = arguments["early_stopping"] == "never" and arguments["length_penalty"] > 0
        length = (arguments["max_length"] if patient else arguments["cur_len"]) - arguments["decoder_prompt_len"]
        best = arguments["running_beam_scores"][:, 0] / length ** arguments["length_penalty"]
        stopping = (best - arguments["beam_scores"].amin(1)).abs()
        margin = torch.stack([parts["rank"], parts["order"], stopping]).amin(0)
        width = arguments["cur_len"]
        steps.append(
            Step(parts["running"][:, :, :width].numpy(), parts["finished"][:, :, :width].numpy(), margin.numpy())
        )
        return kinds["_check_early_stop_heuristic"](**arguments)

    patches = dict(zip(kinds, (continuations, running, finished, stop), strict=True))
    for name, patch in patches.items():
        setattr(model, name, patch)
    try:
        yield
    finally:
        for name in patches:
            delattr(model, name)


def ours(case: Case, prepared: Prepared, **only_ours: Any) -> Generated:
    """The answer of our `generate` to a case. `only_ours` are options that transformers does not get."""
    options = {**case.options, **only_ours}
    return generate(prepared, case.input_ids, case.attention_mask, case.decoder_input_ids, **options)


class Outcome(NamedTuple):
    """The comparison of one case. It is exempt if it differs first at a decision with a margin under NEAR."""

    case: Case
    problem: str  # what differs, or an empty string
    margin: float = np.inf  # transformers' margin at the first decision that differs

    @property
    def exempt(self) -> bool:
        return bool(self.problem) and self.margin < NEAR


def compare(case: Case, model: TorchModel, prepared: Prepared, **only_ours: Any) -> Outcome:
    """Compares the tokens, sequence scores and per-token log-probabilities of a case with those of transformers.

    `model` and `prepared` have the same weights. `only_ours` are options that transformers does not get.
    """
    theirs, mine = reference(case, model), ours(case, prepared, **only_ours)
    if mine.sequences.shape != theirs.sequences.shape or not np.array_equal(mine.sequences, theirs.sequences):
        margin = beam_margin(case, prepared, theirs) if theirs.steps else greedy_margin(mine, theirs)
        return Outcome(case, f"tokens differ\n  ours   {mine.sequences}\n  theirs {theirs.sequences}", margin)
    if not np.array_equal(mine.lengths, theirs.lengths):
        return Outcome(case, f"lengths differ\n  ours   {mine.lengths}\n  theirs {theirs.lengths}")
    prompt = theirs.sequences.shape[1] - theirs.log_probs.shape[1]
    real = np.arange(theirs.sequences.shape[1]) < mine.lengths[:, None]
    expected = np.where(real[:, prompt:], theirs.log_probs, 0.0)
    scale = error_factor(case) * np.maximum(1, np.abs(expected))
    if problem := differs("log_probs", mine.log_probs[:, prompt:], expected, scale):
        return Outcome(case, problem)
    if theirs.sequences_scores is not None:
        # A score is a sum of log-probabilities divided by a power of their count, and so is its error.
        power = (mine.lengths - prompt) ** float(case.options.get("length_penalty", 1.0))
        if problem := differs("sequences_scores", mine.sequences_scores, theirs.sequences_scores, scale.sum(1) / power):
            return Outcome(case, problem)
    return Outcome(case, "")


def error_factor(case: Case) -> float:
    """The factor by which repetition penalties multiply the scores of some tokens, and so their rounding errors.

    Without this factor, two log-probabilities in all of the generation tests would fail with a difference of 1.2e-5;
    both cases have an encoder_repetition_penalty of 3.
    """
    penalties = (case.options.get(name) or 1.0 for name in ("repetition_penalty", "encoder_repetition_penalty"))
    return math.prod(max(penalty, 1 / penalty) for penalty in penalties)


def differs(what: str, mine: np.ndarray, theirs: np.ndarray, scale: np.ndarray) -> str:
    """A message about the first entry that differs by more than TOLERANCE times `scale`, or an empty string."""
    with np.errstate(invalid="ignore"):
        wrong = ~((mine == theirs) | (np.abs(mine - theirs) <= TOLERANCE * scale))
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{what} differ at {at}: ours {mine[at]!r}, theirs {theirs[at]!r}"


def greedy_margin(mine: Generated, theirs: Reference) -> float:
    """The largest margin of all rows: by how much transformers preferred its token at the row's first difference."""
    width = min(mine.sequences.shape[1], theirs.sequences.shape[1])
    prompt = theirs.sequences.shape[1] - len(theirs.scores)
    margins = []
    for i, (a, b) in enumerate(zip(mine.sequences[:, :width], theirs.sequences[:, :width], strict=True)):
        if (a != b).any():
            at = int(np.argmax(a != b))
            scores = theirs.scores[at - prompt][i]
            margins.append(float(scores[b[at]] - scores[a[at]]))
    return max(margins, default=np.inf)


def beam_margin(case: Case, prepared: Prepared, theirs: Reference) -> float:
    """The largest margin of all rows: that of the first step in which our search differs from the recorded one.

    For this our search runs again, one step at a time.
    """
    ids, mask = check_source(case.input_ids, case.attention_mask, prepared.config)
    rows = resolve(prepared.generation, prepared.config, case.options, None, len(ids))
    prompts = check_prompts(case.decoder_input_ids, rows, prepared.config)
    state = start_decoding(prepared, ids, mask, prompts, rows, [0] * len(ids))
    for _ in range(len(prompts[0]) - 1):
        state = decode(prepared.weights, prepared.config, state, 1, False)
    margins: dict[int, float] = {}
    stopped: dict[int, float] = {}
    for step in theirs.steps:
        state = decode(prepared.weights, prepared.config, state, 1, False)
        running, finished = np.asarray(state.tokens), np.asarray(state.finished.tokens)
        valid, done = np.asarray(state.finished.valid), np.asarray(state.done)
        width = step.running.shape[2]
        behind = np.arange(width) >= np.asarray(state.finished.length)[..., None]
        for i in range(len(ids)):
            same = ((finished[i, :, :width] == step.finished[i]) | behind[i])[valid[i]].all()
            if not done[i]:
                same &= bool((running[i, :, :width] == step.running[i]).all())
            if not same:
                margins.setdefault(i, stopped.get(i, float(step.margin[i])))
            if done[i]:
                stopped.setdefault(i, float(step.margin[i]))
    return max(margins.values(), default=np.inf)


def report(outcomes: list[Outcome]) -> str:
    """Fails if a case differs and is not exempt; returns a sentence with the numbers of cases and of exempt cases."""
    exempt = [outcome for outcome in outcomes if outcome.exempt]
    wrong = [outcome for outcome in outcomes if outcome.problem and not outcome.exempt]
    shown = "\n".join(f"{o.case}\n  {o.problem}\n  margin {o.margin:.2e}" for o in wrong[:3])
    assert not wrong, f"{len(wrong)} of {len(outcomes)} cases differ from transformers, the first:\n{shown}"
    return f"{len(outcomes)} cases compared with transformers, {len(exempt)} of them exempt (margin under {NEAR:.0e})"
