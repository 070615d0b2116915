"""Exit code and log distinguish temporary failures from permanent ones."""

from __future__ import annotations

import pytest

from histgen_lib.stack.children import describe_exit, is_retryable


@pytest.mark.parametrize(
    ("exit_code", "log"),
    [
        (-9, ""),
        (-11, "Signal (11) received."),
        (143, ""),
        (None, "Loading models"),
        (0, ""),
        (1, "error: creating server: Unavailable - Socket '127.0.0.1:8001' already in use "),
        (1, "java.net.BindException: Address already in use"),
        (1, "java.io.IOException: No space left on device"),
        (1, "There is insufficient memory for the Java Runtime Environment to continue."),
        (1, "java.lang.OutOfMemoryError: Java heap space"),
        (1, "Failed to acquire lock on file .lock in /home/kafka/logs. A Kafka instance in another process"),
        (1, "failed to load 'histgen' version 1: Internal: Stub process 'histgen_0_0' is not healthy."),
        (1, "Error: Could not find or load main class kafka.Kafka"),
        (127, "tritonserver: error while loading shared libraries: libcudart.so.12: cannot open"),
        (1, "java.io.IOException: Read-only file system"),
        (1, ""),
    ],
)
def test_kills_slow_starts_lack_of_space_and_ongoing_installations_are_retryable(exit_code, log):
    assert is_retryable(exit_code, log, was_up=False)


@pytest.mark.parametrize(
    ("exit_code", "log"),
    [
        (1, "org.apache.kafka.common.config.ConfigException: Missing required configuration"),
        (1, "Stored node id 2 doesn't match previous node id 1 in /home/kafka/logs/meta.properties."),
        (78, "Triton's shared memory cannot be closed to other accounts here"),
        (1, "error: creating server: Invalid argument - no such option"),
    ],
)
def test_wrong_settings_and_foreign_data_are_permanent_unless_it_ran_before(exit_code, log):
    assert not is_retryable(exit_code, log, was_up=False)
    assert is_retryable(exit_code, log, was_up=True)


def test_exits_are_described_in_words():
    assert describe_exit(-9) == "was ended by SIGKILL"
    assert describe_exit(143) == "was ended by SIGTERM"
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(None) == "did not start in time"
