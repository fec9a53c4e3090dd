"""Word order of English questions: from "A claim must be submitted within 45 days" to "within 45 days must a claim be submitted".

A few hundred words and rules, no parser: what they do not know gives no question.
"""

from __future__ import annotations

import re


def words_of(*lines: str) -> frozenset[str]:
    """Return the words of some lines of text."""
    return frozenset(" ".join(lines).split())


def _singular(base: str) -> str:
    if base in ("have", "go", "do"):
        return {"have": "has", "go": "goes", "do": "does"}[base]
    if base.endswith("y") and base[-2] not in "aeiou":
        return f"{base[:-1]}ies"
    return f"{base}es" if base.endswith(("s", "x", "ch", "sh")) else f"{base}s"


AUXILIARIES = words_of("is are was were may can must will should might cannot")
BASES = words_of(
    "accept add allow answer apply arrive attend award begin belong bring build buy call carry cease change charge check",
    "claim clean close collect come contain continue contribute cost count cover cut decide deduct deliver do earn employ",
    "empty end enter expire fall file fill find finish follow get give go grant grow handle have help hold hire host",
    "increase inspect keep lapse last lead leave lend lie limit live lose make measure meet move need offer open order own",
    "pass pay peak post prepare print process produce promise provide publish raise reach read receive record refund",
    "reimburse release remain renew repair replace reply report require reserve reset rest return review rise run save see",
    "sell send serve ship show sign sit sleep spend stand start stay stop store suffice supply switch take test train",
    "travel treat turn update use visit wait warn wash watch weigh work write",
)
"""Verbs that stand in rules and instructions, as they are in a list of words."""
VERBS = {_singular(base): base for base in BASES}
"""Their third person singular, and what it is of."""
IMPERATIVES = BASES | words_of(
    "announce ask attach book clear copy describe dial email enclose fetch hand inform lock log mark name notify pack",
    "phone plan press put quote register request ring scan settle shred speak state submit tell transfer upload",
)
BEFORE_NOUNS = words_of(
    "a an the this that these those my your his her its our their each every any no some of for in on at by with per to",
    "from into first second third last next same new old",
)
"""After one of these comes a noun, whatever the word may be elsewhere."""
STRANGE_SUBJECTS = words_of(
    "it they this these those that he she there here such both each either neither what which who where when if how why",
    "then also only but and or so please not never nobody none one another others all most some many its their his",
    "whatever whoever once at in on for after before from with without of to by during until within under over than per",
)
"""A clause that begins with one of these is not about something that its own words name."""
CLAUSES = re.compile(
    r"[,;]|\b(?:and|but|or|so|because|which|that|who|whom|whose|while|when|where|if|unless|until|although|than|as)\b"
)
"""Where another clause, or another part of a list, may begin."""
PLURALS = words_of("we you i people staff colleagues")
SUBJECT_WORDS = 8
_OPENERS = ("how", "who", "up to", "at least", "at most", "what percentage", "more than", "no more than")


def ordered(before: str, phrase: str, rest: str) -> str | None:
    """Return the words of a question in their order, or None where that is not known.

    `phrase` is what asks for the value ("after how many days"); `before` and `rest` are the clause around the value, with the
    subject and the verb, or with an instruction, before it; or with nothing before it, where the value is the subject.
    """
    words = before.split()
    if not words:
        next_word = rest.split()[0] if rest else ""
        is_verb = next_word in AUXILIARIES or next_word in VERBS or next_word in BASES
        return f"{phrase} {rest}" if is_verb and phrase.startswith(_OPENERS) else None
    first = words[0].casefold()
    if first in IMPERATIVES:
        if CLAUSES.search(before) or any(_is_verb(words, at) or words[at] in AUXILIARIES for at in range(1, len(words))):
            return None
        return f"{phrase} should I {to_me(before)} {to_me(rest)}"
    if first in STRANGE_SUBJECTS:
        return None
    place = next((at for at, word in enumerate(words) if at and word in AUXILIARIES), None)
    verb = next((at for at, word in enumerate(words) if at and _is_verb(words, at)), None)
    if place is not None and (verb is None or place <= verb):
        return _inverted(words, place, phrase, rest)
    if verb is None:
        return None
    subject, kept = " ".join(words[:verb]), " ".join(words[verb + 1 :])
    if not _is_subject(subject) or CLAUSES.search(kept) or AUXILIARIES.intersection((*kept.split(), *rest.split())):
        return None
    helper = "does" if words[verb] in VERBS else "do"
    subject = to_me(subject)
    return f"{phrase} {helper} {subject} {VERBS.get(words[verb], words[verb])} {to_me(kept)} {to_me(rest)}"


def _inverted(words: list[str], place: int, phrase: str, rest: str) -> str | None:
    subject, kept = " ".join(words[:place]), " ".join(words[place + 1 :])
    if not _is_subject(subject) or CLAUSES.search(kept) or words[place] == "cannot":
        return None
    auxiliary = words[place]
    if auxiliary in ("is", "are") and not kept and not rest and phrase.startswith(("how", "what")):
        return f"what {auxiliary} {subject}"
    if auxiliary not in ("is", "are", "was", "were"):
        subject, kept, rest = to_me(subject), to_me(kept), to_me(rest)
    return f"{phrase} {auxiliary} {subject} {kept} {rest}"


def _is_verb(words: list[str], at: int) -> bool:
    """Say whether a word is the verb of its clause: a singular form after a singular subject, or a base form after a plural."""
    word, last = words[at], words[at - 1].casefold()
    if last in BEFORE_NOUNS or not word.islower() or (at + 1 < len(words) and words[at + 1] in AUXILIARIES):
        return False
    plural = last in PLURALS or (last.endswith("s") and not last.endswith(("ss", "us", "is")))
    return (word in VERBS and not plural) or (word in BASES and plural)


def _is_subject(subject: str) -> bool:
    return len(subject.split()) <= SUBJECT_WORDS and not CLAUSES.search(subject)


def small(text: str, names: frozenset[str] = frozenset()) -> str:
    """Begin with a small letter, unless the first word is a name: known as one, or with more capitals, or before a capital."""
    words = text.split()
    if not words or words[0] in names or any(letter.isupper() or letter.isdigit() for letter in words[0][1:]):
        return text
    if words[0] == "I" or (len(words) > 1 and words[1][0].isupper() and words[0].casefold() not in BEFORE_NOUNS):
        return text
    return text[0].lower() + text[1:]


def to_me(text: str) -> str:
    """Let the asker speak of himself: "you" becomes "I" before a verb, and "me" elsewhere."""
    text = re.sub(r"\byour\b", "my", text)
    text = re.sub(r"^you\b|\byou(?= (?:have|need|begin|finish|want|are|may|can|must|will|do|did|had|were|work)\b)", "I", text)
    return re.sub(r"\byou\b", "me", text).replace("I are ", "I am ")
