"""Streams of tokens become the same text as decoding them at once, and never half a character."""

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.text import tokenizer as tokenizer_file
from sluice.text.detokenizer import ByteLevelDetokenizer, WindowDetokenizer, detokenizer
from sluice.text.model_files import GenerationDefaults
from sluice.text.tokenizer import SpecialTokens, Tokenizer

unicode_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_file.load(make_model_directory(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """As SentencePiece models have it: words marked with a block, unknown characters as bytes."""
    words = ["<unk>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁", *"abcdehlorw", "▁hello", "▁world", "lo"]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[("l", "o")], byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(
        backend,
        vocabulary=len(words),
        context_tokens=100,
        template=None,
        defaults=GenerationDefaults(),
        has_byte_level_decoder=False,
    )


def pieces(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    stream = detokenizer(tokenizer, prompt=[])
    return [*[stream.push(token) for token in tokens], stream.flush()]


@given(text=unicode_text)
def test_pieces_join_to_the_text_that_was_encoded(byte_level: Tokenizer, text: str) -> None:
    tokens = byte_level.encode(text, SpecialTokens.LEAVE_OUT)
    assert "".join(pieces(byte_level, tokens)) == text


@given(data=st.data())
def test_any_tokens_give_what_decoding_them_at_once_gives(byte_level: Tokenizer, data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.integers(0, byte_level.vocabulary - 1), max_size=30))
    assert "".join(pieces(byte_level, tokens)) == byte_level.decode(tokens)


def test_half_a_character_is_held_back(byte_level: Tokenizer) -> None:
    tokens = byte_level.encode("€", SpecialTokens.LEAVE_OUT)
    assert len(tokens) == 3, "one token per byte"
    assert pieces(byte_level, tokens) == ["", "", "€", ""]


def test_bytes_that_never_become_a_character_are_flushed_as_one_mark(byte_level: Tokenizer) -> None:
    tokens = byte_level.encode("€", SpecialTokens.LEAVE_OUT)[:2]
    assert pieces(byte_level, tokens) == ["", "", "\N{REPLACEMENT CHARACTER}"]


def test_special_tokens_and_ids_without_a_token_have_no_text(byte_level: Tokenizer) -> None:
    assert pieces(byte_level, [0, 10_000_000]) == ["", "", ""]


@given(text=st.text(alphabet="abcdehlorw €é😀", max_size=30))
def test_window_decoding_joins_to_the_whole_text(byte_fallback: Tokenizer, text: str) -> None:
    tokens = byte_fallback.encode(text, SpecialTokens.LEAVE_OUT)
    assert isinstance(detokenizer(byte_fallback, prompt=[]), WindowDetokenizer)
    assert "".join(pieces(byte_fallback, tokens)) == byte_fallback.decode(tokens)


def test_the_space_before_the_first_word_survives_after_a_prompt(byte_fallback: Tokenizer) -> None:
    hello, world = (byte_fallback.encode(word, SpecialTokens.LEAVE_OUT) for word in ("hello", "world"))
    stream = detokenizer(byte_fallback, prompt=hello)
    assert "".join([*map(stream.push, world), stream.flush()]) == " world"


def test_a_long_run_of_broken_bytes_is_not_held_for_ever(byte_fallback: Tokenizer) -> None:
    broken = [1 + 0xFF] * 20
    assert any(pieces(byte_fallback, broken)[:-1])


def test_byte_level_vocabularies_take_the_table(byte_level: Tokenizer) -> None:
    assert isinstance(detokenizer(byte_level, prompt=[]), ByteLevelDetokenizer)


def test_models_are_loaded_from_a_path(tmp_path: Path) -> None:
    assert tokenizer_file.load(make_model_directory(tmp_path)).context_tokens == 8192
