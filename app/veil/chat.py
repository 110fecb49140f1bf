"""Chat templates: conversations as the text that a model was trained on. A template comes with the model,
and is code of a stranger's: it runs in a sandbox, on plain data.

Source: the chat templates of transformers, by what their documentation states.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from veil_spec.refusals import Refusal, Refused

REFUSED: Final = (
    "the model's chat template refuses this conversation by its raise_exception: "
    "let user and assistant take turns, without a system turn, or use --raw"
)
BROKEN: Final = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)
"""What a template raises that does not fit the turns."""


class TemplateRefuses(TemplateError):
    """What a template raises for a conversation that it cannot take."""


class _Generation(Extension):
    """The tag that marks what a model said, which matters in training alone."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands between the tags."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class _Names(Namespace):
    """What templates call a namespace: values that they may set, under names that do not begin with _."""

    def __init__(self, *pairs: Any, **values: object) -> None:
        given = dict(*pairs, **values)
        for name in given:
            _check_name(name)
        super().__init__(given)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError("a namespace takes no name that begins with _")


def _refuse(message: object) -> NoReturn:
    raise TemplateRefuses


def _json(value: object, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **options)


@cache
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _json
    environment.globals["namespace"] = _Names
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def render(source: str, turns: Sequence[Mapping[str, str]], special: Mapping[str, str]) -> str:
    """Return a conversation in a template, up to where the model is to speak; `special` are its tokens.

    A refusal never shows what the template says: that may hold a turn's text.

    Refuses: PROMPT_MALFORMED, MODEL_MALFORMED.
    """
    try:
        template = _compiled(source)
    except TemplateError as error:
        raise Refused(Refusal.MODEL_MALFORMED, "the model's chat template cannot be read") from error
    messages = [dict(turn) for turn in turns]
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
    try:
        return template.render(**{**special, **given})
    except TemplateRefuses:
        raise Refused(Refusal.PROMPT_MALFORMED, REFUSED) from None
    except BROKEN:
        remedy = "the model's chat template cannot take these turns: give a user's turn, or use --raw"
        raise Refused(Refusal.PROMPT_MALFORMED, remedy) from None
