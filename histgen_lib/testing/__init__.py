"""Parts for tests without servers, held to the same contract suites as the real ones."""
