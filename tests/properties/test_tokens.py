"""Join tokens: every token survives being written down, and nothing else passes for one."""

from __future__ import annotations

import hashlib
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy import limits, pki
from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import Timestamp

NOW = Timestamp(1_700_000_000 * 1_000_000_000)
SECRETS = st.binary(min_size=pki.SECRET_BYTES, max_size=pki.SECRET_BYTES)
KEYS = st.binary(min_size=pki.KEY_BYTES, max_size=pki.KEY_BYTES)
DIGITS = string.digits + string.ascii_lowercase
PINNED_CERTIFICATE = "4f2462d1ab3af33944d94d05aa2d69f8840d16503da9a5bad2d4f5c823692c45"
TOKEN = f"SWMTKN-1-{'0' * 50}-{'z' * 25}"


def root_of(key: bytes) -> bytes:
    secrets = (bytes(pki.SECRET_BYTES), bytes(pki.SECRET_BYTES))
    return pki.create_root_ca(NOW, key=key, serial=bytes(pki.SERIAL_BYTES), secrets=secrets).ca_cert


ROOT = root_of(bytes(pki.KEY_BYTES))


@given(SECRETS)
def test_a_token_survives_being_written_down(secret: bytes) -> None:
    token = pki.create_token(ROOT, secret)
    text = str(token)
    assert pki.parse_token(text) == token
    assert pki.parse_token(f"  {text}\n") == token
    assert len(text) == len("SWMTKN-1-") + 50 + 1 + 25
    assert set(text.removeprefix("SWMTKN-1-")) <= set(DIGITS + "-")
    assert token.secret not in repr(token)


@given(SECRETS, SECRETS)
def test_tokens_are_the_same_when_their_secrets_are(one: bytes, other: bytes) -> None:
    first, second = pki.create_token(ROOT, one), pki.create_token(ROOT, other)
    assert pki.is_same_token(first, second) == (one == other)


@settings(max_examples=30, deadline=None)
@given(SECRETS, SECRETS)
def test_equal_tokens_imply_equal_certificates_and_no_others(one: bytes, other: bytes) -> None:
    first, second = pki.create_token(ROOT, one), pki.create_token(ROOT, other)
    identity = pki.join_identity(first)
    assert pki.join_identity(pki.parse_token(str(first))) == identity
    if one != other:
        assert pki.join_identity(second).certificate != identity.certificate
        assert pki.join_identity(second).key != identity.key
    assert first.secret.encode() not in identity.certificate


@settings(max_examples=20, deadline=None)
@given(KEYS, SECRETS)
def test_the_key_of_a_token_is_bound_to_its_cluster(key: bytes, secret: bytes) -> None:
    here, there = pki.create_token(ROOT, secret), pki.create_token(root_of(key), secret)
    is_same_root = here.digest == there.digest
    assert (pki.join_identity(here).key == pki.join_identity(there).key) == is_same_root


@given(st.text(max_size=200))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid join token"):
        pki.parse_token(text)


@given(st.data())
def test_a_damaged_token_is_refused(data: st.DataObject) -> None:
    """Cut, lengthened, or with a character that tokens do not have."""
    kind = data.draw(st.sampled_from(["cut", "longer", "strange"]))
    at = data.draw(st.integers(0, len(TOKEN) - 1))
    match kind:
        case "cut":
            text = TOKEN[:at] + TOKEN[at + 1 :]
        case "longer":
            text = TOKEN[:at] + data.draw(st.sampled_from(DIGITS)) + TOKEN[at:]
        case _:
            text = TOKEN[:at] + data.draw(st.sampled_from("ABZ_.,é١²\x00 ")) + TOKEN[at + 1 :]
    with pytest.raises(InvalidArgument, match=r"^invalid join token"):
        pki.parse_token(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SWMTKN-1-",
        "SWMTKN-1--",
        f"SWMTKN-2-1-{'0' * 50}-{'z' * 25}",
        TOKEN.replace("SWMTKN", "SWMKEY"),
        TOKEN + "-",
        TOKEN + "\n" + TOKEN,
        TOKEN[:-1],
        TOKEN * 2,
        TOKEN + "0" * 1_000_000,
        "SWMTKN-1-" + "0" * 1_000_000,
    ],
    ids=lambda text: text[:16] or "empty",
)
def test_bad_tokens_by_example(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid join token") as caught:
        pki.parse_token(text)
    # What is wrong is said without repeating what may be most of a secret.
    assert "zzz" not in str(caught.value)
    assert len(str(caught.value)) < 120


def test_a_megabyte_is_refused_by_its_length_alone() -> None:
    with pytest.raises(InvalidArgument, match="far too many"):
        pki.parse_token("x" * (limits.TOKEN_CHARS_MAX + 1))


@given(st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_the_digest_does_not_depend_on_how_the_bundle_is_written(line_end: bytes, is_commented: bool) -> None:
    written = ROOT.replace(b"\n", line_end)
    if is_commented:
        written = b"swarm-ca\n" + written
    assert pki.root_digest(written) == pki.root_digest(ROOT)


def test_the_derivation_never_changes() -> None:
    """Old and new daemons must derive the same certificate, for as long as a token may live."""
    certificate = pki.join_identity(pki.parse_token(TOKEN)).certificate
    assert hashlib.sha256(certificate).hexdigest() == PINNED_CERTIFICATE
