"""Secrets and personal data, by their shapes."""

from __future__ import annotations

import pytest

from training.personal import find_personal


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ask jo.doe@example.com", "an e-mail address"),
        ("password: hunter22", "a password or another secret"),
        ("my password is Winter2024!", "a password or another secret"),
        ("API_KEY=abcd1234", "a password or another secret"),
        ("it is sk-abcdefghijklmnop1234", "an access key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "an access key"),
        ("pay to DE89 3704 0044 0532 0130 00", "a bank account number"),
        ("GB82WEST12345698765432", "a bank account number"),
        ("4111 1111 1111 1111", "a card number"),
        ("call +44 20 7946 0958", "a phone number"),
        ("it is 078-05-1120", "a social security number"),
    ],
)
def test_what_looks_like_personal_data_is_named(text: str, kind: str) -> None:
    assert find_personal(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "€140 a night",
        "extension 2417",
        "The password is reset by the service desk",
        "Passwords must have 14 characters",
        "1 March 2024 to 31 March 2025, 16:30",
        "order 4111 1111 1111 1112",
        "form 202208-3090-003",
        "20 000 to 30 000 euros",
    ],
)
def test_ordinary_answers_pass(text: str) -> None:
    assert find_personal(text) is None


def test_what_the_documents_say_themselves_is_no_secret() -> None:
    page = "Write to help@larkmoor.example or call +44 20 7946 0958."
    assert find_personal("help@larkmoor.example, +44 (20) 7946-0958", allowed_in=[page]) is None
    assert find_personal("jo@larkmoor.example", allowed_in=[page]) == "an e-mail address"
