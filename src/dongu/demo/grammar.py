"""Pairs of English sentences that share nearly all their words, and either mean the same or do not.

A `Meaning` is what is said, a `Style` is how, and `render` says it. A paraphrase is the same meaning in
another style. A non-paraphrase is another meaning in another style: one or two of the parts that the style
words anew are replaced (hired: recruited or sacked? 12: twelve or fifteen?), or two parts are exchanged (who did
it to whom). Each word differs as often in the one as in the other: only the pair of words tells.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dongu.demo import lexicon
from dongu.demo.lexicon import DOMAINS, HELD_OUT, Domain

Options = list[str]
MONTHS, ORDINALS = lexicon.MONTHS.split(), lexicon.ORDINALS.split()
NUMERALS = dict(entry.split("=") for entry in lexicon.NUMBERS.split("; "))
IRREGULAR = {base: forms for base, *forms in map(str.split, lexicon.IRREGULAR.split("; "))}
TOWNS = [f"{town}=the {country} capital" for town, country in map(str.split, lexicon.TOWNS.split("; "))]
HOURS = [f"at {h} a.m.=at {NUMERALS[str(h)]} in the morning" for h in range(5, 12)]
HOURS += [f"at {h} p.m.=at {NUMERALS[str(h)]} in the evening" for h in range(6, 11)]
SWAPPED = 0.2
"""How many of the changed meanings have two parts exchanged, where that can be."""
REORDERED = 0.5
STRAYED = 0.2
REPLACED = (0.0, 0.5, 1.0, 1.0)
WORDED = (1, 2, 3, 4)
ADDED = (0, 1, 1, 2)


class Forms(NamedTuple):
    do: str
    did: str
    done: str


def conjugate(verb: str) -> Forms:
    base, _, rest = verb.partition(" ")
    regular = base[:-1] + "ied" if re.search("[^aeiou]y$", base) else base.removesuffix("e") + "ed"
    past, participle = IRREGULAR.get(base, (regular, regular))
    return Forms(*(f"{form} {rest}".strip() for form in (base, past, participle)))


@dataclass(frozen=True)
class Frame:
    """A kind of event, and two ways to word it."""

    plain: str
    inverted: str
    exchange: str = ""
    """The two parts that, exchanged, make another event of it."""
    adjuncts: str = "where when link"
    """What can be added with no doubt about what it belongs to."""


# fmt: off
FRAMES = {
    "deed": Frame("{a} {how} {v.did} {b}", "{b} was {how} {v.done} by {a}", "a b", "how trait where when link"),
    "transfer": Frame("{a} {v.did} the {q} {x} to {b}", "the {q} {x} was {v.done} to {b} by {a}", "a b"),
    "count": Frame("{a} {how} {v.did} {n} {x}", "{n} {x} were {how} {v.done} by {a}", "", "trait where when link"),
    "totals": Frame("{a} {v.did} {n} {x} and {m} {y}", "{n} {x} and {m} {y} were {v.done} by {a}", "n m"),
    "attempt": Frame("{a} {v} {x}", "{a} {v} {x}", "", "trait link"),
    "belief": Frame("{a} {how} {v.did} that {x}", "{a} {how} {v.did} that {x}", "", "how trait"),
    "journey": Frame("{a} {v.did} from {b} to {c}", "from {b}, {a} {v.did} to {c}", "b c", "trait when link"),
    "level": Frame("{x} {v.did} by {n} {u}", "{x} {v.did} by {n} {u}"),
    "comparison": Frame("{x} was {v} in {b} than in {c}", "in {b}, {x} was {v} than in {c}", "b c", ""),
    "sequence": Frame("{a} {v} after {b}", "{v} after {b}, {a}", "a b", ""),
}
# fmt: on


@dataclass(frozen=True)
class Meaning:
    frame: str
    parts: Mapping[str, str]
    """The frame's letters and its adjuncts as far as they are said; "hire=recruit" can be said in two ways."""
    rivals: Mapping[str, Sequence[str]]
    """What could stand in the place of the parts that can be said in two ways."""


@dataclass(frozen=True)
class Style:
    """How a meaning is put; each choice can be turned round without a change of meaning."""

    inverted: bool = False
    """The passive for the active voice, or the like."""
    fronted: bool = False
    """An adjunct comes first."""
    others: frozenset[str] = frozenset()
    """The parts of which the second wording is used."""


def begin(text: str) -> str:
    """The text with a capital letter, and no numeral at its beginning."""
    text = re.sub(r"^\d+", lambda numeral: NUMERALS[numeral[0]], text)
    return text[0].upper() + text[1:]


def render(meaning: Meaning, style: Style) -> str:
    """The one sentence that says this meaning in this style."""
    frame = FRAMES[meaning.frame]
    wording = frame.inverted if style.inverted else frame.plain
    words = {name: part.split("=")[-1 if name in style.others else 0] for name, part in meaning.parts.items()}
    if "trait" in words:
        words["a"] = words["a"].replace("the ", f"the {words['trait']} ", 1)
    verb = conjugate(words["v"]) if "{v." in wording else words["v"]
    text = wording.format_map({"how": "", **words, "v": verb})
    adjuncts = [words[name] for name in ("where", "when") if name in words]
    if style.fronted and ("link" in words or adjuncts):
        first = f"{words['link']} {words['fact']}" if "link" in words else adjuncts.pop()
        text = " ".join([f"{first},", text, *adjuncts])
    else:
        text = " ".join([text, *adjuncts] + ([words["link"], words["fact"]] if "link" in words else []))
    return begin(" ".join(text.split()).removesuffix(".")) + "."


def invent(rng: random.Random, domain: Domain, frame: str) -> Meaning:
    """Something that might happen in this domain."""
    parts: dict[str, str] = {}
    rivals: dict[str, Options] = {}

    def pick(options: str | Options, **fixed: str) -> str:
        return rng.choice(options.split("; ") if isinstance(options, str) else options)

    def put(name: str, options: str | Options) -> None:
        options = options.split("; ") if isinstance(options, str) else options
        parts[name] = rng.choice([option for option in options if option not in parts.values()])
        named_twice = [option for option in options if "=" in option]
        if "=" in parts[name] and len(named_twice) > 1:
            rivals[name] = named_twice

    def fit(entries: str) -> tuple[str, list[str]]:
        head, things = pick(entries).split(": ")
        return head, rng.sample(things.split(", "), min(2, things.count(",") + 1))

    bodies = frame in ("deed", "transfer") and rng.random() < 0.4
    cast = [f"the {one.replace('=', '=the ')}" for one in (domain.bodies if bodies else domain.people).split("; ")]
    named = rng.random() < 0.2 and not bodies
    match frame:
        case "deed" | "transfer":
            put("a", cast)
            put("b", cast)
        case "sequence":
            put("a", domain.events)
            put("b", domain.events)
        case "level" | "comparison":
            parts["x"], [parts["u"]] = fit(domain.levels)
        case _:
            put("a", cast)
    if named and frame not in ("level", "comparison", "sequence"):
        parts["a"] = f"{pick(lexicon.FIRST_NAMES.split())} {pick(lexicon.LAST_NAMES.split())}"
        rivals.pop("a", None)
    match frame:
        case "deed":
            put("v", domain.dealings if bodies else domain.deeds)
        case "transfer":
            put("v", lexicon.TRANSFERS)
            put("q", lexicon.QUALITIES)
            put("x", domain.goods)
        case "count" | "totals":
            usable = [entry for entry in domain.counts.split("; ") if "," in entry]
            entry = rng.choice(usable)
            parts["v"], [parts["x"], parts["y"]] = fit(entry)
            rivals["v"] = [e.split(": ")[0] for e in usable if parts["x"] in e or True]
            put("n", lexicon.NUMBERS)
            put("m", lexicon.NUMBERS)
            del rivals["v"]
        case "attempt":
            put("v", lexicon.ATTEMPTS)
            put("x", domain.tasks)
        case "belief":
            put("v", lexicon.BELIEFS)
            put("x", domain.facts)
        case "journey":
            put("v", lexicon.TRAVELS)
            put("b", TOWNS)
            put("c", TOWNS)
        case "level":
            put("v", lexicon.TURNS)
            put("n", lexicon.NUMBERS)
        case "comparison":
            put("v", lexicon.DEGREES)
            put("b", TOWNS)
            put("c", TOWNS)
        case "sequence":
            put("v", lexicon.DELAYS)
    addable = [x for x in FRAMES[frame].adjuncts.split() if not (x == "trait" and (named or bodies))]
    for name in rng.sample(addable, min(len(addable), rng.choice(ADDED))):
        match name:
            case "trait":
                put(name, lexicon.TRAITS)
            case "how":
                put(name, lexicon.MANNERS)
            case "where" if rng.random() < 0.4:
                put(name, domain.places)
            case "where":
                put(name, [f"in {town.replace('=', '=in ')}" for town in TOWNS])
            case "when":
                day, month = rng.choice(ORDINALS), rng.choice(MONTHS)
                near = [(day, other) for other in MONTHS] + [(other, month) for other in ORDINALS]
                dates = [f"on {ORDINALS.index(d) + 1} {m}=on the {d} of {m}" for d, m in near]
                put(name, rng.choice([dates, HOURS, lexicon.PARTS_OF_DAY.split("; ")]))
            case "link":
                put(name, lexicon.LINKS)
                put("fact", domain.facts)
    return Meaning(frame, parts, rivals)


def twist(meaning: Meaning, worded: Sequence[str], rng: random.Random) -> Meaning:
    """Another meaning in nearly the same words: two parts exchanged, or one or two of those `worded` replaced."""
    parts, rivals = dict(meaning.parts), meaning.rivals
    exchange = FRAMES[meaning.frame].exchange.split()
    if exchange and rng.random() < SWAPPED:
        x, y = exchange
        return replace(meaning, parts={**parts, x: parts[y], y: parts[x]})
    for name in worded[: max(1, round(rng.choice(REPLACED) * len(worded)))]:
        parts[name] = rng.choice([part for part in rivals[name] if part not in parts.values()])
    return replace(meaning, parts=parts)


def restyle(meaning: Meaning, style: Style, worded: Sequence[str], reordered: bool) -> Style:
    """Another style: these parts in their other words, and mostly one thing put first or last."""
    style = replace(style, others=style.others ^ frozenset(worded))
    if reordered:
        turns = [replace(style, inverted=not style.inverted), replace(style, fronted=not style.fronted)]
        turns = [turned for turned in turns if render(meaning, turned) != render(meaning, style)]
        style = turns[0] if turns else style
        if len(turns) > 1 and style.inverted == style.fronted:
            style = turns[1]
    return style


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
        domain, frame = rng.choice(domains), rng.choice(list(FRAMES))
        meaning = invent(rng, domain, frame)
        # Each meaning is used twice, once with either label, so that its words say nothing about the label.
        worded = rng.sample(sorted(meaning.rivals), min(len(meaning.rivals), rng.choice(WORDED)))
        if not worded:
            continue
        reordered = rng.random() < REORDERED
        pairs = []
        otherwise = invent(rng, domain, frame) if rng.random() < STRAYED else twist(meaning, worded, rng)
        for label, other in (("paraphrase", meaning), ("different", otherwise)):
            others = frozenset(name for name in sorted(meaning.rivals) if rng.random() < 0.5)
            style = Style(rng.random() < 0.3, rng.random() < 0.3, others)
            first, second = render(meaning, style), render(other, restyle(meaning, style, worded, reordered))
            pairs.append({"sentence1": first, "sentence2": second, "label": label})
        sentences = {pair[name] for pair in pairs for name in ("sentence1", "sentence2")}
        if len(sentences) == 4 and seen.isdisjoint(sentences):
            seen |= sentences
            rows += pairs
    del rows[count:]
    rng.shuffle(rows)
    return rows
