"""Pairs of English sentences that share nearly all their words, and either mean the same or do not.

A `Meaning` is what is said, a `Style` is how, and `render` says it. A paraphrase is the same meaning in
another style. A non-paraphrase is another meaning in another style; the other meaning is mostly the first one
with two parts exchanged: who did it to whom, which number goes with what, which came first. The second style
is drawn alike for both, so that form and words alone tell little about the label.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from dongu.demo import lexicon
from dongu.demo.lexicon import DOMAINS, HELD_OUT, Domain

UNITS, TENS, ORDINALS = lexicon.UNITS.split(), lexicon.TENS.split(), lexicon.ORDINALS.split()
MONTHS, TOWNS = lexicon.MONTHS.split(), lexicon.TOWNS.split()
IRREGULAR = {base: forms for base, *forms in map(str.split, lexicon.IRREGULAR.split("; "))}
REPLACED = 0.4
"""How many of the changed meanings have one number, date or town replaced, where there is one."""


@dataclass(frozen=True)
class Style:
    """How a meaning is put; each choice can be turned round without a change of meaning."""

    inverted: bool
    """What mostly comes last is put first: the passive, or a subordinate clause before the main one."""
    converse: bool
    """Told from the other end: bought for sold, fewer for more, before for after, not missed for met."""
    scene_first: bool
    time_first: bool
    quoted: bool
    numerals: bool
    """12 rather than twelve."""
    month_first: bool
    other_verb: bool
    other_noun: bool


@dataclass(frozen=True)
class Date:
    day: int
    month: int

    def say(self, style: Style) -> str:
        name = MONTHS[self.month - 1]
        if style.numerals:
            return f"{name} {self.day}" if style.month_first else f"{self.day} {name}"
        day = ORDINALS[self.day - 1] if self.day <= 20 else f"twenty-{ORDINALS[self.day - 21]}"
        return f"{name} the {day}" if style.month_first else f"the {day} of {name}"


class Forms(NamedTuple):
    do: str
    did: str
    done: str


@dataclass(frozen=True)
class Verb:
    names: str
    """One verb, or two that mean the same: "appoint", "eliminate=knock out"."""

    def say(self, style: Style) -> Forms:
        base, _, rest = self.names.split("=")[-1 if style.other_verb else 0].partition(" ")
        regular = base[:-1] + "ied" if re.search("[^aeiou]y$", base) else base.removesuffix("e") + "ed"
        past, participle = IRREGULAR.get(base, (regular, regular))
        return Forms(*(f"{form} {rest}".strip() for form in (base, past, participle)))


Part = str | int | Date | Verb


@dataclass(frozen=True)
class Frame:
    """A kind of event, and the four ways to word it."""

    exchange: str
    """The two parts that, exchanged, make another event of it."""
    adjuncts: str
    """What can be added with no doubt about what it belongs to."""
    plain: str
    converse: str
    inverted: str
    both: str

    def wording(self, style: Style) -> str:
        if style.inverted:
            return self.both if style.converse else self.inverted
        return self.converse if style.converse else self.plain


# fmt: off
FRAMES = {
    "deed": Frame("a b", "when where scene speaker",
        "{a} {v.did} {b}", "{a} {v.did} {b}",
        "{b} was {v.done} by {a}", "{b} was {v.done} by {a}"),
    "choice": Frame("b c", "speaker",
        "{a} {v.did} {b} but not {c}", "{a} did not {v.do} {c} but did {v.do} {b}",
        "{b}, but not {c}, was {v.done} by {a}", "{c} was not {v.done} by {a}, but {b} was"),
    "two days": Frame("d e", "speaker",
        "{a} {v.did} {b} on {d} and {c} on {e}", "{a} {v.did} {c} on {e} and {b} on {d}",
        "{b} was {v.done} by {a} on {d}, and so was {c} on {e}",
        "{c} was {v.done} by {a} on {e}, and so was {b} on {d}"),
    "two towns": Frame("b c", "speaker",
        "{a} {v.did} in {b} on {d} and in {c} on {e}", "{a} {v.did} in {c} on {e} and in {b} on {d}",
        "in {b} on {d} and in {c} on {e}, {a} {v.did}", "in {c} on {e} and in {b} on {d}, {a} {v.did}"),
    "journey": Frame("b c", "when scene speaker",
        "{a} {v.did} from {b} to {c}", "{a} left {b} for {c}",
        "{a} {v.did} to {c} from {b}", "{a} left for {c} from {b}"),
    "outcome": Frame("v w", "when scene speaker",
        "{a} {v.did} {b}", "{a} did not {w.do} {b}",
        "{b} was {v.done} by {a}", "{b} was not {w.done} by {a}"),
    "forecast": Frame("v w", "when speaker",
        "{a} {{will|is going to}} {v.do} {b}", "{a} {{will not|is not going to}} {w.do} {b}",
        "{b} {{will|is going to}} be {v.done} by {a}", "{b} {{will not|is not going to}} be {w.done} by {a}"),
    "transfer": Frame("a b", "when where scene speaker",
        "{a} {v.did} {x} to {b}", "{b} {w.did} {x} from {a}",
        "{x} was {v.done} to {b} by {a}", "{x} was {w.done} from {a} by {b}"),
    "totals": Frame("n m", "when where scene speaker",
        "{a} {v.did} {n} {x} and {m} {y}", "{a} {v.did} {m} {y} and {n} {x}",
        "{n} {x} and {m} {y} were {v.done} by {a}", "{m} {y} and {n} {x} were {v.done} by {a}"),
    "comparison": Frame("a b", "when where scene speaker",
        "{a} {v.did} more {x} than {b}", "{b} {v.did} fewer {x} than {a}",
        "more {x} were {v.done} by {a} than by {b}", "fewer {x} were {v.done} by {b} than by {a}"),
    "level": Frame("n m", "speaker",
        "{x} went from {n} to {m} {u}", "{x} stood at {m} {u}, {{compared with|as against}} {n} before",
        "having stood at {n} {u}, {x} went to {m} {u}", "having been at {n} {u} before, {x} reached {m} {u}"),
    "sequence": Frame("a b", "when speaker",
        "{b} after {a}", "{a} before {b}",
        "after {a}, {b}", "before {b}, {a}"),
    "report": Frame("a b", "",
        "{a} {v.did} {b} that {x}", "{b} heard from {a} that {x}",
        "{b} was {v.done} by {a} that {x}", '"{x}," {a} {v.did} {b}'),
}
# fmt: on


@dataclass(frozen=True)
class Meaning:
    frame: str
    parts: Mapping[str, Part]
    """The frame's letters, and "when", "where", "scene" and "speaker" as far as they are said."""


def spell(n: int) -> str:
    tens, unit = divmod(n, 10)
    return UNITS[n] if n < 20 else TENS[tens - 2] + (f"-{UNITS[unit]}" if unit else "")


def begin(text: str) -> str:
    """The text with a capital letter, within quotation marks if need be, and no numeral at its beginning."""
    text = re.sub(r"^\d+", lambda numeral: spell(int(numeral[0])), text)
    return re.sub(r"^\W?\w", lambda letter: letter[0].upper(), text)


def render(meaning: Meaning, style: Style) -> str:
    """The one sentence that says this meaning in this style."""

    def say(part: Part) -> str | Forms:
        if isinstance(part, int):
            return str(part) if style.numerals else spell(part)
        return part if isinstance(part, str) else part.say(style)

    words = {name: say(part) for name, part in meaning.parts.items()}
    text = FRAMES[meaning.frame].wording(style).format(**words)
    where, scene, speaker = (str(words.get(name, "")) for name in ("where", "scene", "speaker"))
    when = f"on {words['when']}" if "when" in words else ""
    direct = style.quoted or not speaker
    if direct and scene and style.scene_first:
        text, scene = f"{scene}, {text}", ""
    elif direct and when and style.time_first:
        text, when = f"{when}, {text}", ""
    comma = "," if scene.startswith(("as ", "although ")) else ""
    text = " ".join(filter(None, (text, where, when))) + (f"{comma} {scene}" if scene else "")
    if speaker:
        said = "stated" if style.other_verb else "said"
        text = f'"{begin(text)}," {said} {speaker}' if direct else f"{speaker} {said} that {text}"
    text = re.sub(r"\{(.+?)\|(.+?)\}", r"\2" if style.other_noun else r"\1", text)
    return begin(text.replace(" %", "%" if style.numerals and style.other_noun else " percent")) + "."


def invent(rng: random.Random, domain: Domain) -> Meaning:
    """Something that might happen in this domain."""

    def pick(entries: str) -> str:
        return rng.choice(entries.split("; "))

    def fit(entries: str, count: int) -> tuple[str, list[str]]:
        head, things = pick(entries).split(": ")
        return head, rng.sample(things.split(", "), count)

    frame = rng.choice(list(FRAMES))
    bodies = frame in ("deed", "choice", "two days", "transfer") and rng.random() < 0.4
    cast = rng.sample((domain.bodies if bodies else domain.people).split("; "), 4)
    for i, first_name in enumerate(rng.sample(lexicon.FIRST_NAMES.split(), 4)):
        person = f"{first_name} {rng.choice(lexicon.LAST_NAMES.split())}"
        adjective = f"{rng.choice(lexicon.ADJECTIVES.split())} " if rng.random() < 0.3 and not bodies else ""
        cast[i] = person if rng.random() < 0.3 and not bodies else f"the {adjective}{cast[i]}"
    a, b, c, speaker = cast
    d, e, when = (Date(k % 28 + 1, k // 28 + 1) for k in rng.sample(range(28 * 12), 3))
    n, m = rng.sample(range(2, 100), 2)
    p, q, town = rng.sample(TOWNS, 3)
    parts: dict[str, Part] = {"a": a, "b": b}
    match frame:
        case "deed" | "choice" | "two days":
            v = pick(domain.dealings if bodies else domain.deeds)
            parts |= {"v": Verb(v), "c": c, "d": d, "e": e}
        case "two towns":
            parts |= {"v": Verb(pick(lexicon.TOURS)), "b": p, "c": q, "d": d, "e": e}
        case "journey":
            parts |= {"v": Verb("travel=journey"), "b": p, "c": q}
        case "outcome" | "forecast":
            pair, [thing] = fit(domain.tasks, 1)
            v, w = rng.sample(pair.split("/"), 2)
            parts |= {"v": Verb(v), "w": Verb(w), "b": thing}
        case "transfer":
            v, w = rng.choice(lexicon.TRANSFERS)
            parts |= {"v": Verb(v), "w": Verb(w), "x": pick(domain.goods)}
        case "totals" | "comparison":
            v, [x, y] = fit(domain.counts, 2)
            parts |= {"v": Verb(v), "n": n, "x": x, "m": m, "y": y}
        case "level":
            x, [u] = fit(domain.levels, 1)
            parts = {"x": x, "n": n, "m": m, "u": u}
        case "sequence":
            parts["a"], parts["b"] = rng.sample(domain.events.split("; "), 2)
        case "report":
            parts |= {"v": Verb("tell=inform"), "x": pick(domain.facts)}
    where = pick(domain.places) if rng.random() < 0.6 else f"in {town}"
    scene = pick(domain.scenes)
    adjuncts: dict[str, Part] = {"when": when, "where": where, "scene": scene, "speaker": speaker}
    addable = FRAMES[frame].adjuncts.split()
    added = rng.sample(addable, min(len(addable), rng.choice((1, 1, 2))))
    return Meaning(frame, parts | {name: adjuncts[name] for name in added})


def twist(meaning: Meaning, rng: random.Random) -> Meaning:
    """Another meaning in nearly the same words: two parts exchanged, or one date, number or town replaced."""
    wording, parts = FRAMES[meaning.frame].plain, meaning.parts
    said = [name for name in parts if re.search(rf"\{{{name}\b", wording) or len(name) > 1]
    replaceable = [name for name in said if isinstance(parts[name], int | Date) or parts[name] in TOWNS]
    if replaceable and rng.random() < REPLACED:
        name = rng.choice(replaceable)
        other = rng.choice([part for part in like(parts[name]) if part not in parts.values()])
        return replace(meaning, parts={**parts, name: other})
    x, y = FRAMES[meaning.frame].exchange.split()
    if "speaker" in parts and meaning.frame not in ("level", "sequence") and rng.random() < 0.3:
        x, y = "a", "speaker"
    return replace(meaning, parts={**parts, x: parts[y], y: parts[x]})


def like(part: Part) -> Sequence[Part]:
    """What can stand for a part: any number, any town, or a date that differs in the day or in the month."""
    match part:
        case int():
            return range(2, 100)
        case Date(day, month):
            other_days = [Date(other, month) for other in range(1, 29)]
            return other_days + [Date(day, other) for other in range(1, 13)] * 2
        case _:
            return TOWNS


def restyle(meaning: Meaning, style: Style, rng: random.Random) -> Style:
    """Another style: one to three of the choices that show in this meaning are turned round."""
    visible = []
    for field in fields(Style):
        turned = replace(style, **{field.name: not getattr(style, field.name)})
        if render(meaning, turned) != render(meaning, style):
            visible.append(field.name)
    turn = rng.sample(visible, min(len(visible), rng.randint(1, 3)))
    return replace(style, **{name: not getattr(style, name) for name in turn})


def write_pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Write `count` rows of "sentence1", "sentence2" and "label", which is "paraphrase" or "different".

    Half of the rows are paraphrases, to within one, in a random order. The same count and seed give the same
    rows on every machine.
    """
    return _write(count, random.Random(seed), DOMAINS, set())  # noqa: S311 - no cryptography


def write_splits(
    seed: int = 42, train: int = 2400, validation: int = 400, test: int = 600
) -> dict[str, list[dict[str, str]]]:
    """Write splits that have no sentence in common; only the test split speaks of the domains `HELD_OUT`."""
    rng = random.Random(seed)  # noqa: S311 - no cryptography
    seen: set[str] = set()
    familiar = [domain for domain in DOMAINS if domain.name not in HELD_OUT]
    sizes = {"train": (train, familiar), "validation": (validation, familiar), "test": (test, DOMAINS)}
    return {split: _write(count, rng, domains, seen) for split, (count, domains) in sizes.items()}


def _write(count: int, rng: random.Random, domains: Sequence[Domain], seen: set[str]) -> list[dict[str, str]]:
    """Rows that have no sentence in common with one another or with those `seen`, which they join."""
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        meaning = invent(rng, rng.choice(domains))
        # Each meaning is used twice, once with either label, so that its words say nothing about the label.
        pairs = []
        for label, other in (("paraphrase", meaning), ("different", twist(meaning, rng))):
            style = Style(*(rng.random() < 0.5 for _ in fields(Style)))
            first, second = render(meaning, style), render(other, restyle(meaning, style, rng))
            pairs.append({"sentence1": first, "sentence2": second, "label": label})
        sentences = {pair[name] for pair in pairs for name in ("sentence1", "sentence2")}
        if len(sentences) == 4 and seen.isdisjoint(sentences):
            seen |= sentences
            rows += pairs
    del rows[count:]
    rng.shuffle(rows)
    return rows
