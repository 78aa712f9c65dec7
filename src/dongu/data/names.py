"""The names that people give to columns of texts and of labels; what a name says of a column.

Names are compared by their words: `Review Text`, `review_text` and `reviewText` are the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

# What can be little else: the first of these that the data have is the label, whatever else there is.
LABEL_COLUMNS = """
label, labels, gold label, gold, class, classes, category, categories, stance, target, targets, class label, label text,
label name, class index, subtask a, etiket, kategori, sınıf, kategorie, klasse, étiquette, catégorie, classe, etiqueta,
categoría, clase, rótulo, etichetta, y, v1
"""
# What often stands beside a label too: it is the label where it is the only one of the first line that the data have.
OFTEN_LABEL_COLUMNS = """
sentiment, sentiments, airline sentiment, polarity, emotion, emotions, intent, duygu, stimmung, sentimento, sentimiento
stars, star, rating, ratings, star rating, overall rating, score, review score, overall, points, puan, bewertung
similarity, similarity score, relatedness score
is duplicate, toxicity, toxic, spam, hate, fraudulent, clickbait, hyperpartisan, generated, liked, relation, status
relationship, quality, durum
topic, topics, genre, product, queue, department
subject, type, tags, tag
language
"""
PAIRS_OF_COLUMNS = """
sentence1 sentence2, premise hypothesis, question1 question2, question sentence, text_a text_b, text1 text2,
text text_pair, premises hypothesis, context hypothesis, text hypothesis, claim evidence, question passage,
query passage, query document
"""
# The text itself before what is beside it: the first of these that the data have is the text.
TEXT_COLUMNS = """
text, full text, sentence, sentences, texts, review text, review body, review, reviews, content, contents,
question content, question text, tweet text, tweet, tweets, original tweet, comment text, comment, comments,
message text, message, body text, body, post text, post, posts, sms, email text, email, document, article, passage,
paragraph, essay, transcription, transcript, narrative, consumer complaint narrative, utterance, utterances, utt,
statement, claim, query, question, instruction, prompt, user input, description, short description, abstract,
medical abstract, summary, summaries, headline, headlines, title, titles, phrase, verse text, news, news text, input,
inputs, string, sample, snippet, excerpt, resume, resume str, discourse text, story, func, code, metin, yorum, mesaj,
cümle, haber, içerik, açıklama, soru, başlık, satz, kommentar, nachricht, beitrag, bewertungstext, inhalt, beschreibung,
frage, texte, commentaire, avis, contenu, texto, frase, comentario, comentário, mensaje, mensagem, contenido, testo,
commento, messaggio, tekst, v2
"""
# Words of names that say what a column is, such as `ticket category` and `product text`.
_LABEL_WORDS = "label class category sentiment emotion intent rating score stance"
_TEXT_WORDS = "text sentence comment review tweet message body content question headline title sent string"
_SIDES = (("1", "2"), ("a", "b"), ("left", "right"))  # in the names of the columns of a pair
# The last words of names of columns that are neither texts nor labels, whatever they hold.
_BESIDE = """
id ids idx index uid uuid guid qid sno url urls link href date time timestamp created at on by no number count user
username author name lang locale source split fold parse tokens year month confidence votes age location country
speaker version num
"""
_UNNAMED = ("", "unnamed", "index")  # as pandas names the columns without a name, and writes its index
_ASKED = "question query prompt instruction"
_ANSWERS = "answer response reply output completion"
_HUMP = re.compile(r"(?<=[a-zß-ÿ0-9])(?=[A-Z])")


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name, in small letters without accents."""
    letters = unicodedata.normalize("NFKD", _HUMP.sub(" ", name).replace("ı", "i").casefold())
    return tuple(re.findall(r"[^\W_]+", "".join(c for c in letters if not unicodedata.combining(c)))) or ("",)


def _listed(text: str) -> tuple[str, ...]:
    return tuple("".join(words_of(name)) for name in re.split(r",\s", text.strip()))


LABELS, TEXTS = _listed(LABEL_COLUMNS), _listed(TEXT_COLUMNS)
OFTEN_LABELS = tuple(map(_listed, OFTEN_LABEL_COLUMNS.strip().splitlines()))
PAIRS = tuple(tuple("".join(words_of(name)) for name in pair.split()) for pair in PAIRS_OF_COLUMNS.split(","))


def by_words(names: Sequence[str]) -> dict[str, str]:
    """The words of each name, joined, to the name; of names that are alike, the first."""
    return {"".join(words_of(name)): name for name in reversed(names)}


def to_read(names: Iterable[str]) -> list[str]:
    """Those that are not, by their name, something beside texts and labels, such as an id or a date."""
    return [name for name in names if words_of(name)[-1] not in _BESIDE.split() and words_of(name)[0] not in _UNNAMED]


def names_a_label(name: str) -> bool:
    """Whether a name says that the column holds labels."""
    words = words_of(name)
    return words[-1] in _LABEL_WORDS.split() or words[0] in ("is", "has")


def is_half(text: str, names: Sequence[str]) -> bool:
    """Whether a text is a question, and there is a column of answers beside it: what is judged may be both."""
    return text in _ASKED.split() and not by_words(names).keys().isdisjoint(_ANSWERS.split())


def names_a_text(name: str) -> bool:
    """Whether a name says that the column holds texts."""
    return words_of(name)[-1] in _TEXT_WORDS.split()


def pair_of(names: Sequence[str]) -> tuple[str, str] | None:
    """The two columns of a pair, by a usual name of both or by two that differ in their side alone."""
    known = by_words(names)
    for one, other in PAIRS:
        if one in known and other in known:
            return known[one], known[other]
    sides = {words: name for name in names if not {*_TEXT_WORDS.split()}.isdisjoint(words := _sided(name))}
    for one, other in _SIDES:
        for words, name in sides.items():
            twin = tuple(other if word == one else word for word in words)
            if words.count(one) == 1 and twin in sides:
                return name, sides[twin]
    return None


def _sided(name: str) -> tuple[str, ...]:
    """Its words, and a digit at their end as a word of its own."""
    return tuple(part for word in words_of(name) for part in re.findall(r"\d+|\D+", word))
