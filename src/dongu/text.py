"""Words for a person: safe for a terminal, visible, short, and with the right number."""

from __future__ import annotations

import math
import re
import shlex
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")  # categories of Unicode: control, format, the three kinds of space
LINE_LIMIT = 2000  # characters of a line of an error: a whole file in one cell may be what is wrong
SHOWN_CHARACTERS = 72
WIDTH = 80  # columns of a terminal that nobody has made wider
NAMES = 11  # columns of the names in `fields`
# The soft hyphen, spaces and joiners without width. A joiner behind a picture makes another picture of it: it stays.
_UNSEEN = re.compile("[\u00ad\u200b\u200c\u2060\ufeff]|(?<![\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])\u200d")
# A command that a text tells to copy, up to where the sentence goes on; its file names may have spaces, in quotes.
_COMMAND = re.compile(
    r"`[^`]+`|\b(?:dongu (?:train|resume|evaluate|predict|report|compare|tune|runs|prepare|inspect|verify|eject|export"
    r"|serve|push|quiz|completion|demo)|pip install|python)\b(?:'[^']*'|\"[^\"]*\"|[^,;:('\"`]|[,;:](?! ))*"
)


def printable(text: str) -> str:
    """Text from data without what could move or recolour a terminal: control and direction characters."""
    if text.isprintable():  # most are, which is sooner told
        return text
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf")
        else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def one_line(text: str) -> str:
    """For a message: printable, on one line, not too long."""
    return printable(" ".join(shortened(text, LINE_LIMIT).splitlines()))


def reason_of(error: BaseException) -> str:
    """The first line of another library's message; the kind of the error where it says nothing."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def shortened(text: str, limit: int = 80) -> str:
    """The text itself, or its beginning and its end where it has more characters than `limit`."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def is_blank(text: str) -> bool:
    """Whether nothing in it is visible: spaces, control characters, and what has no width."""
    return not text[:1].isalnum() and all(unicodedata.category(character) in INVISIBLE for character in text)


def plain(text: str) -> str:
    """What is left of a text without case, width and space: equal where a reader sees the same words."""
    text = unicodedata.normalize("NFKC", text).casefold()
    # Of all space only " " is printable. Most texts are as they should be, which is sooner told.
    if text.isprintable() and "  " not in text and text == text.strip():
        return text
    return " ".join(text.split())


def visible(text: str) -> str:
    """What `plain` leaves of a text, without characters that nobody sees and most tokenizers drop.

    Rows are held out by `plain`, as they always were: a draw comes again only by the same rule.
    """
    return plain(text if text.isascii() else _UNSEEN.sub("", text))


def excerpt(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: limit + 1].split())
    return line if len(text) <= limit else line[: limit - 1] + "…"


def typed(path: str | Path) -> str:
    """A path in a command to copy: in quotes where it has a space, or whatever else a shell would read otherwise."""
    return shlex.quote(str(path))


def counted(number: int, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(items: Sequence[str], limit: int = 3, joint: str = ", ") -> str:
    """The first few, and how many more."""
    more = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return joint.join(items[:limit]) + more


def percent(share: float) -> str:
    """`1.2%`; a little is not nothing: `<0.1%`."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def decimals(value: float | None, nothing: str = "undefined") -> str:
    """Four digits after the point; `nothing` for null, NaN and infinity."""
    return f"{value:z.4f}" if value is not None and math.isfinite(value) else nothing


def with_interval(entry: Mapping[str, float | None], nothing: str = "undefined") -> str:
    """A value and, in brackets, the ends of its interval, `low` and `high`."""
    return f"{decimals(entry['value'], nothing)} ({interval_ends(entry, 'no interval')})"


def interval_ends(entry: Mapping[str, float | None], nothing: str = "none") -> str:
    """`low` to `high`; `nothing` where rows are too few, or too much alike, for an interval."""
    low, high = (decimals(entry[key], "") for key in ("low", "high"))
    return f"{low} to {high}" if low and high else nothing


def kind_of_part(thing: Any) -> str:
    """What a part of the user's own gave: `None`, `an int`, `a tensor of float32 and shape (8, 2)`."""
    if thing is None:
        return "None"
    name = {"Tensor": "tensor", "ndarray": "array"}.get(name := type(thing).__name__, name)
    said = f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"
    if hasattr(thing, "shape") and hasattr(thing, "dtype"):
        return f"{said} of {str(thing.dtype).removeprefix('torch.')} and shape {tuple(thing.shape)}"
    return said


@cache
def template(path: Path, **filters: Any) -> Template:
    """A template of plain text, a file of the package; what it is not given is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - what is written is no HTML
    )
    environment.filters |= filters
    return environment.get_template(path.name)


def wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """Lines of at most 80 columns, cut at spaces alone, and never within a command, which may make one longer.

    The first begins with `first`, the others with `rest`.
    """
    rest = " " * len(first) if rest is None else rest
    whole = _COMMAND.sub(lambda command: command[0].rstrip().replace(" ", "\0") + " " * command[0].endswith(" "), text)
    lines = textwrap.wrap(
        whole, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\0", " ") for line in lines] or [first.rstrip()]


def fields(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Aligned `name  text` lines, each wrapped below itself."""
    for name, text in rows:
        yield from wrapped(text, f"{name:<{NAMES}}")


def clock(seconds: float) -> str:
    """`3:07`, or `1:02:09`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def file_name(where: str) -> str:
    """The place of a row (`folder/train.csv:17`) without the folders above its file."""
    return where.rsplit("/", 1)[-1]


class Readable:
    """What prints as a command shows it, also in a notebook."""

    def lines(self) -> Iterator[str]:
        """For a person."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return "\n".join(map(printable, self.lines()))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"
