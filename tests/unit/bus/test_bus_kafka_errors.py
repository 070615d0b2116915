"""Every error of kafka-python has a place in our tree; an outage is never fatal."""

from __future__ import annotations

import inspect
from typing import ClassVar

import pytest
from kafka import errors as kafka_errors

from histgen_lib.bus import BusSettings
from histgen_lib.bus._kafka_client import connect, talking
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.files import sha256_hex

KNOWN = [
    error
    for _, error in inspect.getmembers(kafka_errors, inspect.isclass)
    if issubclass(error, kafka_errors.KafkaError)
]
REFUSALS = {
    "DelegationTokenAuthorizationFailedError",
    "AuthorizationError",
    "ClusterAuthorizationFailedError",
    "GroupAuthorizationFailedError",
    "IllegalSaslStateError",
    "SaslAuthenticationFailedError",
    "TopicAuthorizationFailedError",
    "TransactionalIdAuthorizationFailedError",
    "UnsupportedSaslMechanismError",
}
SETTINGS = {"InvalidSessionTimeoutError", "KafkaConfigurationError"}
TOO_LARGE = {"MessageSizeTooLargeError", "RecordListTooLargeError"}
KINDS = {"bus-unavailable": TransientError, "event-too-large": InvalidInputError}


def translated(error: BaseException) -> HistgenError:
    with pytest.raises(HistgenError) as caught, talking():
        raise error
    return caught.value


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_every_error_of_kafka_python_is_translated(kind: type[Exception]) -> None:
    error = translated(kind({}) if kind is kafka_errors.LogTruncationError else kind())
    name = kind.__name__
    code = "bus-refused" if name in REFUSALS else "bus-settings" if name in SETTINGS else "bus-unavailable"
    code = "event-too-large" if name in TOO_LARGE else code
    assert error.code == code
    assert isinstance(error, KINDS.get(code, FatalError))


def test_an_error_inside_the_library_counts_as_an_outage() -> None:
    """Also where it is none of its own errors."""
    with pytest.raises(TransientError), talking():
        kafka_errors.for_code([])  # unhashable: a TypeError from within the library


def test_bugs_of_our_own_are_not_taken_for_outages() -> None:
    with pytest.raises(TypeError), talking():
        sha256_hex("text")  # type: ignore[arg-type]  # any function of ours that fails


def stumbling(*errors: Exception) -> type[object]:
    """Make a kind of client that fails once with each error, and then no more."""
    left = list(errors)

    class Client:
        DEFAULT_CONFIG: ClassVar[dict[str, object]] = {"bootstrap_servers": None, "kafka_client": None}

        def __init__(self, **_: object) -> None:
            if left:
                raise left.pop(0)

    return Client


def test_a_broker_killed_in_mid_handshake_is_an_outage_not_a_wrong_setting() -> None:
    settings = BusSettings("kafka://127.0.0.1:9")
    connect(stumbling(AssertionError()), settings, ["127.0.0.1:9"])
    with pytest.raises(TransientError) as away:
        connect(stumbling(ValueError(), kafka_errors.KafkaConnectionError()), settings, ["127.0.0.1:9"])
    with pytest.raises(FatalError) as wrong:
        connect(stumbling(ValueError(), ValueError()), settings, ["127.0.0.1:9"])
    assert (away.value.code, wrong.value.code) == ("bus-unavailable", "bus-settings")
