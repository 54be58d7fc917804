"""Tests windows, truncation and detokenization with a tokenizer that makes a token of each byte."""

import itertools
import re
import threading
import time

import pytest
from bart_inference.tokenization import Detokenizer, TextEncoder, TextError, encode
from hypothesis import given, settings
from hypothesis import strategies as st

from support.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXTS = st.text(alphabet=st.one_of(st.sampled_from(" \n.!?ab"), st.characters(exclude_categories=["Cs"])), max_size=200)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, room=st.integers(6, 40))
def test_windows_fit_lose_nothing_but_white_space_and_come_in_order(text, room):
    windows = TextEncoder(TOKENIZER, room + 2).windows(text, limit=1000)
    assert all(len(window.ids) <= room + 2 for window in windows)
    kept = "".join(text[window.begin : window.end] for window in windows)
    assert re.sub(r"\s", "", kept) == re.sub(r"\s", "", text)
    assert all(a.end <= b.begin for a, b in itertools.pairwise(windows))


def test_a_huge_text_does_not_hold_up_other_threads():
    """Another thread runs again before half of the tokenization is done.

    Progress is measured in this process's CPU seconds, so that other processes do not matter.
    """
    text = "a few words. " * 100_000
    ticks, done = [time.process_time()], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.process_time())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.process_time()
    encode(TOKENIZER, text)
    seconds = time.process_time() - began
    done.set()
    thread.join()
    longest = max(late - early for early, late in itertools.pairwise([*ticks, began + seconds]))
    assert longest < seconds / 2, f"the other thread waited for {longest:.3f} of {seconds:.3f} CPU seconds"


def test_a_window_ends_after_a_sentence_else_after_a_word_else_anywhere():
    def parts(text):
        return [text[window.begin : window.end] for window in TextEncoder(TOKENIZER, 12).windows(text, 9)]

    assert parts("One. Two. Three.") == ["One. Two.", "Three."]
    assert parts('"Go!" Went far') == ['"Go!"', "Went far"]
    assert parts("one two three four") == ["one two", "three four"]
    assert parts("abcdefghijklm") == ["abcdefghij", "klm"]
    assert parts("日本。語です") == ["日本。", "語です"]
    assert parts("\n one\n\ntwo three\n") == ["one", "two three"]
    assert parts("") == parts("  \n") == [""]


def test_truncation_cuts_the_first_text_and_keeps_the_second_whole():
    text = TextEncoder(TOKENIZER, 12)
    window = text.truncated("abcdefghij", "xyz")
    assert text.decode(window.ids) == "abcdexyz"
    assert len(window.ids) == 12 and window.truncated
    with pytest.raises(TextError, match="cannot be cut"):
        text.truncated("ab", "abcdefghijklm")


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 200)))
def test_pieces_of_text_are_the_whole_wherever_the_tokens_are_cut(text, cuts):
    reader = TextEncoder(TOKENIZER, 10_000)
    ids = reader.whole(text).ids
    bounds = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    detokenizer = Detokenizer(TOKENIZER)
    parts = [detokenizer.push(ids[a:b]) for a, b in itertools.pairwise(bounds)]
    assert "".join(parts) + detokenizer.push((), last=True) == reader.decode(ids)


def test_a_character_waits_for_its_last_byte():
    reader = TextEncoder(TOKENIZER, 100)
    ids = reader.whole("a🙂b").ids[1:-1]
    detokenizer = Detokenizer(TOKENIZER)
    assert [detokenizer.push([token]) for token in ids] == ["a", "", "", "", "🙂", "b"]


def test_bytes_that_are_no_character_come_out_at_the_end():
    reader = TextEncoder(TOKENIZER, 100)
    detokenizer = Detokenizer(TOKENIZER)
    broken = reader.whole("🙂").ids[1:3]
    assert detokenizer.push(broken) == ""
    assert detokenizer.push((), last=True) == reader.decode(broken) != ""
