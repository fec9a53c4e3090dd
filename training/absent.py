"""Does a correction say that the documents do not answer? People say it in many ways; a model is taught one sentence."""

from __future__ import annotations

import re

from feedback.values import fold
from feedback.wording import is_refusal

MAX_WORDS = 30
"""A longer correction says more than that."""

_NOUN = r"(?:documents?|docs?|documentation|handbooks?|manuals?|pages?|passages?|sources?|knowledge base|wiki|guides?|files?)"
_DOCS = (
    r"(?:(?:any|one|none|all|some) of )?(?:(?:the|our|these|those|your|any|company|given|provided|cited|current) ){0,3}" + _NOUN
)
_TOLD = (
    r"(?:stated|found|mentioned|covered|given|answered|documented|written|written down|described|included|addressed|specified)"
)
_TELL = (
    r"(?:say|state|mention|tell|cover|contain|answer|specify|include|give|provide|hold|describe|address|know|list|explain|have)"
)
_NOT = r"(?:not|isn't|is not|wasn't|was not|nowhere|can't be|cannot be|could not be|couldn't be)"
_DO_NOT = r"(?:do not|don't|does not|doesn't|did not|didn't|never|cannot|can't)"
_NO = r"(?:nothing|no (?:answer|information|info|mention|word))"
_SUBJECT = r"(?:(?:that|this|it|the answer|the question|the value|the information|this question|this information)(?:'s| is)? )?"
_THERE = r"(?:(?:there is|there's|there was) )?"
_WHO = r"(?:it|you|this|that|the (?:answer|assistant|model|bot))"
_FORMS = tuple(
    re.compile(pattern)
    for pattern in (
        # "not in the documents", "it is not stated anywhere in the handbook"
        rf"{_SUBJECT}(?:just |simply )?{_NOT} (?:really |actually )?(?:(?:anywhere|to be found|{_TOLD}|there) )?(?:anywhere )?"
        rf"(?:in|by|on|within|from) {_DOCS}(?: at all| anywhere)?",
        rf"{_SUBJECT}(?:just |simply )?{_NOT} (?:{_TOLD}|in there|answerable)(?: anywhere| at all)?",
        # "the documents do not say how many", "no page mentions it", "the handbook says nothing about it"
        rf"{_DOCS} {_DO_NOT} (?:actually )?{_TELL}\b.*",
        rf"(?:no|none of) (?:the |these |our )?{_NOUN} {_TELL}s?\b.*",
        rf"{_DOCS} (?:say|hold|contain|have|give|has)s? {_NO}\b.*",
        # "I don't have that information", "I could not find it"
        r"(?:i|we) (?:could not|couldn't|cannot|can't|can not|did not|didn't|do not|don't) find\b.*",
        r"(?:i|we) (?:do not|don't) know(?: (?:this|that|it|the answer))?",
        r"(?:i|we) (?:do not|don't) have (?:(?:the|that|this|an|any|enough|other|specific) ){0,3}"
        r"(?:answer|information|info|details)\b.*",
        r"(?:i|we) have no (?:such |specific |other )?(?:answer|information|info|details)\b.*",
        # "there is no information on it in the documents", "nothing about this"
        rf"{_THERE}{_NO}(?: (?:about|on|for) (?:this|that|it))?(?: (?:in|on) {_DOCS})?",
        rf"{_THERE}{_NO} .{{1,60}} (?:in|on) {_DOCS}",
        rf"(?:{_WHO} )?should (?:have )?(?:refused?|declined?)\b.*",
        r"unanswerable|unknown",
    )
)
_OPENING = re.compile(
    r"^(?:(?:i'm sorry|i am sorry|sorry|unfortunately|actually|wrong|no,)(?!\w)[,:]? ?(?:but |that )?"
    rf"|(?:{_WHO} )?should (?:have )?(?:say|said|answer|answered|reply|replied|admit|admitted)\b:? ?(?:that )?)+"
)
_TURN = re.compile(r"\b(?:but|however|except|unless|instead)\b")


def says_absent(text: str) -> bool:
    """Say whether `text` says only that the documents do not answer: every sentence of it, with no answer beside."""
    if is_refusal(text):
        return len(text.split()) <= MAX_WORDS
    folded = fold(text)
    if not folded or len(folded.split()) > MAX_WORDS:
        return False
    sentences = [_OPENING.sub("", part.strip(" \"'-")).strip() for part in re.split(r"[.!?;]+(?:\s|$)", folded)]
    if not any(sentences):
        return False
    return all(not _TURN.search(part) and any(form.fullmatch(part) for form in _FORMS) for part in sentences if part)
