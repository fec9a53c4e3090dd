"""One question from the command line."""

from __future__ import annotations

import getpass
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from assistant.chat import Done, Piece, Sources, StepDone
from assistant.config import Settings
from assistant.grounding import closest_pages
from assistant.home import Home
from assistant.services import Services, open_services
from feedback.errors import EngineError, UnknownUser
from feedback.records import Answer, Step, Turn
from feedback.wording import cited_numbers, is_refusal


def local_user(services: Services) -> str:
    """Return the id of the account that questions from this command line belong to, made on the first one."""
    name = f"{getpass.getuser()}@command-line"
    try:
        return services.store.user_by_name(name).id
    except UnknownUser:
        return services.store.add_user(name, secrets.token_urlsafe(24), "employee").id


def ask_once(home: Home, settings: Settings, question: str, *, write: Callable[[str], None] | None, collection: str = "") -> Turn:
    """Ask one question of a collection ("": all); `write` gets the text as it streams, then the sources.

    Raises EngineError when the answer failed, DocumentError for a collection that is not there.
    """
    with open_services(home, settings) as services:
        if settings.documents.folder:
            services.library.follow_setting(Path(settings.documents.folder))
        services.library.check_collection(collection)
        waiting = services.library.waiting()
        if waiting:  # a silent wait looks like a fault
            print(f"Encoding {waiting:,} passages; this is done once.", file=sys.stderr, flush=True)
        services.library.index()
        user_id = local_user(services)
        conversation = services.store.start_conversation(user_id, history=False)
        turn: Turn | None = None
        for event in services.chat.ask(
            user_id=user_id, conversation_id=conversation, question=question, history=False, collection=collection
        ):
            match event:
                case Piece(text=text) if write:
                    write(text)
                case StepDone(step=step) if write:
                    write(f"\n{step_line(step)}\n")
                case Done(turn=turn):
                    pass
                case Sources() | StepDone() | Piece():
                    pass
        if turn is None or turn.answer is None:
            raise EngineError("The engine gave no answer: ask again.")
        if turn.answer.error:
            raise EngineError(turn.answer.error)
        if write:
            write("\n\n" + source_lines(turn) + "\n")
        return turn


def step_line(step: Step) -> str:
    """Return a step of the agent as one line: a call with its arguments, or the beginning of a thought."""
    arguments = ", ".join(f"{name} {value!r}" for name, value in step.arguments.items())
    said = " ".join((f"{step.name}: {arguments}" if arguments else f"{step.name}: {step.result}").split())
    return f"  ({said[:117]}...)" if len(said) > 120 else f"  ({said})"


def source_lines(turn: Turn) -> str:
    """Return what stands under an answer as lines of text: what does not hold, the sources (cited ones marked), how it came.

    Under a refusal stand the closest pages.
    """
    answer = turn.answer
    lines: list[str] = []
    if answer and is_refusal(answer.text):
        if answer.finish_reason == "refused" and answer.written is not None:
            lines.append(f"The documents do not hold what the model wrote, so the answer is: {answer.text}")
        closest = closest_pages(turn.passages)
        lines.extend(["Closest pages:"] if closest else [])
        lines.extend(f"  {title}  ({document})" for document, title in closest)
    else:
        cited = cited_numbers(answer.text) if answer else ()
        lines.extend(_doubts(answer) if answer else ())
        lines.extend(
            f"{'*' if passage.number in cited else ' '} [{passage.number}] {passage.title}  ({passage.document})"
            for passage in turn.passages
        )
    first = f", first token after {answer.ttft_s:.2f} s" if answer and answer.ttft_s is not None else ""
    lines.append(f"  answered by {turn.asked.adapter} of {turn.asked.base_model}{first}")
    return "\n".join(lines)


def _doubts(answer: Answer) -> Iterator[str]:
    """Give a line for each sentence that its sources do not hold."""
    for each in answer.checks:
        if not each.supported:
            where = f", but in [{each.number}]" if each.number is not None else ""
            yield f'"{answer.text[each.start : each.end]}" (not found in the sources{" it cites" if where else ""}{where})'
