"""A model directory that cannot be served says which file is wrong and what to do."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from sluice.errors import InvalidRequestError, ModelLoadError
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.text import tokenizer
from sluice.text.chat_template import ChatTemplate
from sluice.text.tokenizer import SpecialTokens


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "model")


def rewrite(path: Path, **changes: object) -> None:
    path.write_bytes(orjson.dumps({**(orjson.loads(path.read_bytes()) if path.exists() else {}), **changes}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json: is missing"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer.json: is not a tokenizer"),
        (lambda d: (d / "tokenizer.json").write_bytes(b"\xff\x00"), "tokenizer.json"),
        (lambda d: (d / "config.json").unlink(), "config.json: is missing"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: is not valid JSON"),
        (lambda d: (d / "config.json").write_text("[1]"), "config.json: holds no JSON object"),
        (lambda d: rewrite(d / "config.json", vocab_size="many"), "vocab_size is 'many'"),
        (lambda d: rewrite(d / "config.json", max_position_embeddings=None), "states no context length"),
        (lambda d: rewrite(d / "tokenizer_config.json", chat_template="{% if %}"), "chat template"),
        (lambda d: (d / "chat_template.jinja").write_bytes(b"\xff"), "chat_template.jinja: cannot be read"),
        (lambda d: rewrite(d / "generation_config.json", temperature="hot"), "temperature is 'hot'"),
    ],
)
def test_a_bad_file_is_named(model: Path, spoil: Callable[[Path], object], says: str) -> None:
    spoil(model)
    with pytest.raises(ModelLoadError) as caught:
        tokenizer.load(model)
    assert says in str(caught.value)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is not a directory"):
        tokenizer.load(tmp_path / "nowhere")


def test_generation_defaults_come_from_the_model(model: Path) -> None:
    rewrite(model / "generation_config.json", temperature=0.6, top_k=20)
    defaults = tokenizer.load(model).defaults
    assert (defaults.temperature, defaults.top_k, defaults.top_p) == (0.6, 20, 1.0)


def test_nested_text_settings_of_multimodal_models_are_found(model: Path) -> None:
    (model / "config.json").write_bytes(orjson.dumps({"text_config": {"vocab_size": 9, "max_position_embeddings": 7}}))
    loaded = tokenizer.load(model)
    assert (loaded.vocabulary, loaded.context_tokens) == (9, 7)


def test_a_template_file_wins_over_the_settings(model: Path) -> None:
    (model / "chat_template.jinja").write_text("file {{ messages[0].content }}")
    template = tokenizer.load(model).template
    assert template is not None
    assert template.render([{"role": "user", "content": "x"}]) == "file x"


def test_the_default_is_taken_of_several_templates(model: Path) -> None:
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    rewrite(model / "tokenizer_config.json", chat_template=several)
    template = tokenizer.load(model).template
    assert template is not None
    assert template.render([]) == "yes"


def test_special_tokens_given_as_objects_reach_the_template(model: Path) -> None:
    rewrite(model / "tokenizer_config.json", bos_token={"content": "<s>"}, chat_template="{{ bos_token }}!")
    template = tokenizer.load(model).template
    assert template is not None
    assert template.render([]) == "<s>!"


def test_a_template_may_refuse_a_conversation(model: Path) -> None:
    template = tokenizer.load(model).template
    assert template is not None
    with pytest.raises(InvalidRequestError, match=r"messages: .*unknown role tool"):
        template.render([{"role": "tool", "content": "x"}])


def test_templates_have_what_transformers_gives_them() -> None:
    source = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') | length }}{{ add_generation_prompt }}"
    )
    text = ChatTemplate(source, {}).render([{"role": "user", "content": "<é>"}, {"role": "user", "content": "b"}])
    assert text == '{"role": "user", "content": "<é>"}4True'


def test_a_template_cannot_reach_outside_its_sandbox() -> None:
    source = "{{ messages.__class__.__mro__ }}"
    with pytest.raises(InvalidRequestError, match="refused by the model's chat template"):
        ChatTemplate(source, {}).render([])


def test_special_tokens_in_a_text_are_recognised(model: Path) -> None:
    loaded = tokenizer.load(model)
    assert loaded.encode("<|end|>", SpecialTokens.LEAVE_OUT) == [0]
    assert loaded.token_bytes(0) == b"<|end|>"
