"""Pairs of English sentences that share most of their words, and either mean the same or do not.

A `Meaning` is what is said, a `Style` is how, and `render` says it. A paraphrase is the same meaning in another
style. A non-paraphrase is another meaning in another style: some of the parts that the style words anew are also
replaced (is 12 put as twelve, or as fifteen? is hired put as recruited, or as dismissed?), or two parts are
exchanged, or, seldom, something else is said. Any one word differs about as often under either label, so that not
the words tell, but which of them meet.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dongu.demo import lexicon
from dongu.demo.lexicon import DOMAINS, HELD_OUT, Domain

STRAYED = 0.17
"""How many of the changed meanings have only the kind of event in common with the first one."""
SWAPPED = 0.15
"""How many of the others have two parts exchanged, where that can be."""
REPLACED = (0.0, 0.0, 1.0, 1.0, 1.0)
"""Which share of the parts worded anew is replaced; at least one part."""
WORDED = (1, 2, 3, 9, 9)
"""How many parts are worded anew, if there are so many."""
REORDERED = 0.5
"""How many pairs have their parts in two orders."""
ADDED = (0, 1, 1)
"""How many adjuncts an event has."""

MONTHS, ORDINALS = lexicon.MONTHS.split(), lexicon.ORDINALS.split()
NUMERALS = dict(entry.split("=") for entry in lexicon.NUMBERS.split("; "))
IRREGULAR = {base: forms for base, *forms in map(str.split, lexicon.IRREGULAR.split("; "))}
TOWNS = [f"{town}=the {country} capital" for town, country in map(str.split, lexicon.TOWNS.split("; "))]
GENERAL = {
    "transfers": lexicon.TRANSFERS.split("; "),
    "qualities": lexicon.QUALITIES.split("; "),
    "attempts": lexicon.ATTEMPTS.split("; "),
    "beliefs": lexicon.BELIEFS.split("; "),
    "travels": lexicon.TRAVELS.split("; "),
    "turns": lexicon.TURNS.split("; "),
    "degrees": lexicon.DEGREES.split("; "),
    "delays": lexicon.DELAYS.split("; "),
    "numbers": lexicon.NUMBERS.split("; "),
    "towns": TOWNS,
    "nearby": TOWNS[: lexicon.EUROPEAN],
    "trait": lexicon.TRAITS.split("; "),
    "how": lexicon.MANNERS.split("; "),
    "link": lexicon.LINKS.split("; "),
}
"""What every domain has in common."""
HOURS = [
    f"at {hour} {half}=at {NUMERALS[str(hour)]} in the {time}"
    for half, time, hours in (("a.m.", "morning", range(5, 12)), ("p.m.", "evening", range(6, 11)))
    for hour in hours
]


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
    parts: Mapping[str, str]
    """Each letter with the entries that it is drawn from, by their names in `entries`."""
    exchange: str = ""
    """The two parts that, exchanged, make another event of it."""
    adjuncts: str = "where when link"
    """What can be added with no doubt about what it belongs to."""


# fmt: off
FRAMES = {
    "deed": Frame(
        "{a} {how} {v.did} {b}", "{b} was {how} {v.done} by {a}",
        {"a": "people", "b": "people", "v": "deeds"}, "a b", "how trait where when link"),
    "dealing": Frame(
        "{a} {how} {v.did} {b}", "{b} was {how} {v.done} by {a}",
        {"a": "bodies", "b": "bodies", "v": "dealings"}, "a b", "how where when"),
    "transfer": Frame(
        "{a} {v.did} the {q} {x} to {b}", "the {q} {x} was {v.done} to {b} by {a}",
        {"a": "people", "b": "people", "v": "transfers", "q": "qualities", "x": "goods"}, "a b", "where when"),
    "count": Frame(
        "{a} {how} {v.did} {n} {x}", "{n} {x} were {how} {v.done} by {a}",
        {"a": "people", "v": "counting", "n": "numbers", "x": "counted"}, adjuncts="how trait where when link"),
    "totals": Frame(
        "{a} {v.did} {n} {x} and {m} {y}", "{n} {x} and {m} {y} were {v.done} by {a}",
        {"a": "people", "v": "counting", "n": "numbers", "x": "counted", "m": "numbers", "y": "counted"}, "n m"),
    "attempt": Frame(
        "{a} {v} {x}", "{a} {v} {x}",
        {"a": "people", "v": "attempts", "x": "tasks"}, adjuncts="trait link"),
    "belief": Frame(
        "{a} {v.did} that {x}", "{a} {v.did} that {x}",
        {"a": "people", "v": "beliefs", "x": "facts"}, adjuncts="trait"),
    "journey": Frame(
        "{a} {v.did} from {b} to {c}", "{a} {v.did} to {c} from {b}",
        {"a": "people", "v": "travels", "b": "nearby", "c": "nearby"}, "b c", "trait when link"),
    "level": Frame(
        "{x} {v.did} by {n} {u}", "{x} {v.did} by {n} {u}",
        {"x": "quantity", "v": "turns", "n": "numbers", "u": "unit"}),
    "comparison": Frame(
        "{x} was {v} in {b} than in {c}", "in {b}, {x} was {v} than in {c}",
        {"x": "quantity", "v": "degrees", "b": "towns", "c": "towns"}, "b c", ""),
    "sequence": Frame(
        "{a} {v} after {b}", "{v} after {b}, {a}",
        {"a": "events", "b": "events", "v": "delays"}, "a b", ""),
}
# fmt: on


@dataclass(frozen=True)
class Meaning:
    frame: str
    parts: Mapping[str, str]
    """The frame's letters, and its adjuncts as far as they are said; "hire=recruit" can be said in two ways."""
    rivals: Mapping[str, Sequence[str]]
    """For each part that can be said in two ways, all that could stand there and can be, too."""


@dataclass(frozen=True)
class Style:
    """How a meaning is put; each choice can be turned round without a change of meaning."""

    inverted: bool = False
    """The passive for the active voice, or the like."""
    fronted: bool = False
    """An adjunct comes first."""
    others: frozenset[str] = frozenset()
    """The parts that are said in the second of their two ways."""


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
    clauses = [wording.format_map({"how": "", **words, "v": verb})]
    clauses += [words[name] for name in ("where", "when") if name in words]
    if "link" in words:
        clauses.append(f"{words['link']} {words['fact']}")
    if style.fronted and len(clauses) > 1:
        clauses.insert(0, clauses.pop() + ",")
    text = " ".join(" ".join(clauses).split())
    return begin(text.removesuffix(".")) + "."


def draw_entries(rng: random.Random, domain: Domain) -> dict[str, Sequence[str]]:
    """What can stand for the parts of one event in this domain, by the names in `Frame.parts` and the adjuncts'."""

    def definite(nouns: str) -> list[str]:
        return [f"the {noun.replace('=', '=the ')}" for noun in nouns.split("; ")]

    someone = f"{rng.choice(lexicon.FIRST_NAMES.split())} {rng.choice(lexicon.LAST_NAMES.split())}"
    counting, counted = rng.choice(domain.counts.split("; ")).split(": ")
    quantity, unit = rng.choice(domain.levels.split("; ")).split(": ")
    day, month = rng.choice(ORDINALS), rng.choice(MONTHS)
    near = [(day, other) for other in MONTHS] + [(other, month) for other in ORDINALS if other != day]
    dates = [f"on {ORDINALS.index(d) + 1} {m}=on the {d} of {m}" for d, m in near]
    in_towns = [f"in {town.replace('=', '=in ')}" for town in TOWNS]
    special = {
        "people": [*definite(domain.people), someone],
        "bodies": definite(domain.bodies),
        "counting": [counting, *lexicon.COUNTING.split("; ")],
        "counted": counted.split(", "),
        "quantity": [quantity],
        "unit": [unit],
        "where": domain.places.split("; ") if rng.random() < 0.4 else in_towns,
        "when": rng.choice([dates, HOURS, lexicon.PARTS_OF_DAY.split("; ")]),
    }
    own = ("deeds", "dealings", "tasks", "goods", "events", "facts")
    return GENERAL | {name: getattr(domain, name).split("; ") for name in own} | special


def invent(rng: random.Random, domain: Domain, frame: str) -> Meaning:
    """Something that might happen in this domain."""
    entries = draw_entries(rng, domain)
    adjuncts = FRAMES[frame].adjuncts.split()
    added = rng.sample(adjuncts, min(len(adjuncts), rng.choice(ADDED)))
    sources = {**FRAMES[frame].parts, **{name: name for name in added}}
    if "link" in added:
        sources["fact"] = "facts"
    parts: dict[str, str] = {}
    rivals: dict[str, list[str]] = {}
    for name, source in sources.items():
        parts[name] = rng.choice([entry for entry in entries[source] if entry not in parts.values()])
        named_twice = [entry for entry in entries[source] if "=" in entry]
        if "=" in parts[name] and len(named_twice) > 1:
            rivals[name] = named_twice
    if not parts.get("a", "").startswith("the "):
        parts.pop("trait", None)
        rivals.pop("trait", None)
    return Meaning(frame, parts, rivals)


def twist(meaning: Meaning, worded: Sequence[str], rng: random.Random) -> Meaning:
    """Another meaning in nearly the same words: two parts exchanged, or some of those `worded` replaced."""
    parts = dict(meaning.parts)
    exchange = FRAMES[meaning.frame].exchange.split()
    if exchange and rng.random() < SWAPPED:
        x, y = exchange
        parts[x], parts[y] = parts[y], parts[x]
    else:
        for name in worded[: max(1, round(rng.choice(REPLACED) * len(worded)))]:
            parts[name] = rng.choice([rival for rival in meaning.rivals[name] if rival not in parts.values()])
    return replace(meaning, parts=parts)


def restyle(meaning: Meaning, style: Style, worded: Sequence[str], rng: random.Random) -> Style:
    """Another style: the parts `worded` in their other way, and perhaps another order."""
    style = replace(style, others=style.others ^ frozenset(worded))
    turned = [replace(style, inverted=not style.inverted), replace(style, fronted=not style.fronted)]
    visible = [other for other in turned if render(meaning, other) != render(meaning, style)]
    return rng.choice(visible) if visible and rng.random() < REORDERED else style


def write_pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Write `count` rows of "sentence1", "sentence2" and "label", which is "paraphrase" or "different".

    Half of the rows are paraphrases, to within one, in a random order. The same count and seed give the same
    rows on every machine.
    """
    return _write(count, random.Random(seed), DOMAINS, set())  # noqa: S311 - no cryptography


def write_splits(
    seed: int = 42, train: int = 3000, validation: int = 400, test: int = 600
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
        worded = rng.sample(sorted(meaning.rivals), min(len(meaning.rivals), rng.choice(WORDED)))
        if not worded:
            continue
        strayed = rng.random() < STRAYED
        changed = invent(rng, rng.choice(domains), frame) if strayed else twist(meaning, worded, rng)
        # Each meaning is used twice, once with either label, so that its words say nothing about the label.
        pairs = []
        for label, other in (("paraphrase", meaning), ("different", changed)):
            others = frozenset(name for name in sorted({*meaning.parts, *changed.parts}) if rng.random() < 0.5)
            style = Style(rng.random() < 0.3, rng.random() < 0.3, others)
            first, second = render(meaning, style), render(other, restyle(other, style, worded, rng))
            pairs.append({"sentence1": first, "sentence2": second, "label": label})
        sentences = {pair[name] for pair in pairs for name in ("sentence1", "sentence2")}
        if len(sentences) == 4 and seen.isdisjoint(sentences):
            seen |= sentences
            rows += pairs
    del rows[count:]
    rng.shuffle(rows)
    return rows
